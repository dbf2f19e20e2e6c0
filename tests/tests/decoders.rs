//! Every decoder of network bytes over its seeds, among them each input that fuzzing once found: nothing panics. `make fuzz`
//! goes on from there.

use std::fs;
use std::path::Path;

use duologue_tests::decoders::ENTRIES;
use duologue_tests::root;

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    paths.filter(|path| path.is_file()).map(|path| fs::read(path).expect("a file can be read")).collect()
}

#[test]
fn no_seed_makes_a_decoder_panic() {
    for entry in &ENTRIES {
        let own = files(&root().join("tests/seeds").join(entry.name));
        let shared: Vec<_> = entry.seeds.iter().flat_map(|folder| files(&root().join(folder))).collect();
        assert!(own.len() + shared.len() > 3, "{}: only {} seeds", entry.name, own.len() + shared.len());
        for bytes in own.iter().chain(&shared) {
            (entry.run)(bytes);
            // Whatever is a good input is a bad one when it is cut.
            (entry.run)(&bytes[..bytes.len() / 2]);
        }
    }
}
