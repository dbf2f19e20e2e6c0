//! libFuzzer in front of the decoder that `DUOLOGUE_FUZZ` names; without it their names are printed, each with its folders
//! of seeds.
#![no_main]

use std::io::Write;
use std::sync::OnceLock;

use duologue_tests::decoders::{ENTRIES, Entry};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<&'static Entry> = OnceLock::new();

fn choose() -> &'static Entry {
    let name = std::env::var("DUOLOGUE_FUZZ").unwrap_or_default();
    if let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) {
        return entry;
    }
    let mut out = std::io::stdout();
    for Entry { name, seeds, .. } in &ENTRIES {
        writeln!(out, "{name} tests/seeds/{name} {}", seeds.join(" ")).expect("somebody reads");
    }
    std::process::exit(i32::from(!name.is_empty()));
}

fuzz_target!(init: { CHOSEN.get_or_init(choose); }, |bytes: &[u8]| {
    (CHOSEN.get().expect("chosen at the start. This is a bug.").run)(bytes);
});
