//! The real server with a model that follows a script, for browser tests and benches that need speech to be sure of. It is
//! no part of the product.
//!
//! ```text
//! scripted_server SCRIPT [--vad FILE] [--recordings DIR]
//! ```
//! SCRIPT is a letter per unit: `l` listens, `s` speaks a word for its whole second, `e` says the last word of a reply; the
//! last letter goes on for ever. A unit that is forced to listen takes none. With `--vad` the Silero detector listens for
//! the user. It prints its address and stops when its standard input ends.

// Its first line is read by whoever started it.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use duologue_audio::Pcm;
use duologue_model::vad::{VoiceDetector as Silero, VoiceDetectorStream};
use duologue_model::{DeviceChoice, Runtime, RuntimeOptions};
use duologue_session::VoiceFrame;
use duologue_tests::root;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{Server, Setup};
use duologue_transport::http::Asset;
use duologue_transport::record::{Shelf, ShelfLimits};
use duologue_transport::{
    Backend, BackendError, BackendInfo, BackendSession, Limits, SessionRequest, VoiceDetector, Wake,
};

/// Each unit has a word of its own, so that a test sees what is missing and what came twice.
const WORDS: [&str; 12] =
    [" one", " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten", " eleven", " twelve"];
/// Units that a script is drawn out to: longer than any test.
const UNITS: usize = 3600;

struct Arguments {
    script: Vec<Plan>,
    vad: Option<PathBuf>,
    recordings: Option<PathBuf>,
}

fn main() {
    let arguments = arguments();
    let runtime = tokio::runtime::Runtime::new().expect("threads for tokio");
    let server = runtime.block_on(serve(arguments));
    println!("talk at http://{}", server.address);
    // Whoever started it may be gone without a word.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("standard input can be read");
}

async fn serve(Arguments { script, vad, recordings }: Arguments) -> Server {
    let limits = ShelfLimits { age: Duration::from_secs(3600), bytes: 1 << 30 };
    let recordings = recordings.map(|dir| Shelf::open(&dir, limits).expect("a folder for recordings"));
    let backend = Listening { backend: ScriptedBackend::new(2, &script), silero: vad.as_deref().map(load) };
    Server::start_with(backend, Limits::default(), Setup { recordings, assets: page, ..Setup::default() }).await
}

fn arguments() -> Arguments {
    let mut given = std::env::args().skip(1);
    let script = script(&given.next().expect("a SCRIPT, such as lse"));
    let mut arguments = Arguments { script, vad: None, recordings: None };
    while let Some(flag) = given.next() {
        let value = given.next().map(PathBuf::from);
        match flag.as_str() {
            "--vad" => arguments.vad = value,
            "--recordings" => arguments.recordings = value,
            other => panic!("no such flag: {other}"),
        }
    }
    arguments
}

fn script(letters: &str) -> Vec<Plan> {
    let last = letters.chars().last().expect("a script has a letter");
    let words = WORDS.iter().cycle();
    let plan = |(letter, word)| match letter {
        'l' => Plan::Listen,
        's' => Plan::Speak(word),
        'e' => Plan::End(word),
        other => panic!("no such letter in a script: {other}"),
    };
    letters.chars().chain(std::iter::repeat(last)).zip(words.copied()).map(plan).take(UNITS).collect()
}

fn load(vad: &Path) -> Silero {
    let options = RuntimeOptions { library: None, device: DeviceChoice::Cpu, threads: 1 };
    let runtime = Runtime::load(&options).expect("ONNX Runtime");
    Silero::load(&runtime, vad).expect("the voice detector")
}

/// The built page, from the disk.
fn page(path: &str) -> Option<Asset> {
    let bytes = std::fs::read(root().join("web-client/dist").join(path)).ok()?;
    let content_type = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    Some(Asset { bytes: bytes.into(), content_type })
}

/// The script with the product's own voice detector beside it.
struct Listening {
    backend: ScriptedBackend,
    silero: Option<Silero>,
}

impl Backend for Listening {
    fn info(&self) -> &BackendInfo {
        self.backend.info()
    }

    fn open(&self, request: &SessionRequest, wake: Wake) -> Result<Box<dyn BackendSession>, BackendError> {
        self.backend.open(request, wake)
    }

    fn voice(&self, name: &str) -> Option<Arc<Pcm>> {
        self.backend.voice(name)
    }

    fn voice_detector(&self) -> Option<Box<dyn VoiceDetector>> {
        self.silero.as_ref().map(|silero| Box::new(Detector(silero.stream())) as Box<dyn VoiceDetector>)
    }
}

struct Detector(VoiceDetectorStream);

impl VoiceDetector for Detector {
    fn push(&mut self, samples: &[f32], on_frame: &mut dyn FnMut(VoiceFrame)) -> Result<(), BackendError> {
        self.0.push(samples, on_frame).map_err(|error| BackendError::Failed(error.to_string()))
    }
}
