//! Typed questions: where they stand in the context, and what a model says that was not taught to read them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use duologue_engine::{Engine, UnitInput};
use duologue_session::{Mode, TextDecoder};
use duologue_tests::bundle;
use duologue_tests::sessions::{begin, engine, engine_on, greedy, user_audio};

const QUESTION: &str = "What is your name";

/// The golden bundle, whose model claims to read typed text.
fn reading_bundle(folder: &Path) {
    for file in fs::read_dir(bundle()).unwrap() {
        let path = file.unwrap().path().canonicalize().unwrap();
        let name = path.file_name().unwrap();
        if name != "manifest.json" {
            symlink(&path, folder.join(name)).unwrap();
        }
    }
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle().join("manifest.json")).unwrap()).unwrap();
    manifest["prompt"]["typed"] = "lower_case".into();
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

fn rows_of_a_unit(engine: &Engine, text: &str) -> usize {
    let mut conversation = begin(engine, &greedy(engine, Mode::Live));
    let audio = user_audio(0).next().unwrap();
    let unit = conversation.unit(UnitInput { audio, text: text.into(), ..UnitInput::default() }).unwrap();
    unit.report.kv_prefill
}

#[test]
fn a_typed_question_stands_behind_the_audio_of_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    reading_bundle(folder.path());
    let engine = engine_on(folder.path(), 1);
    let silent = rows_of_a_unit(&engine, "");
    for (typed, read) in [(QUESTION, " what is your name"), ("Hello<|speak|></unit>", " hello")] {
        let tokens = engine.tokenizer().encode(read).len();
        assert_eq!(rows_of_a_unit(&engine, typed), silent + tokens, "{typed}");
    }
}

#[test]
fn a_model_that_was_not_taught_to_read_says_so() {
    let engine = engine(1);
    let mut conversation = begin(&engine, &greedy(&engine, Mode::Live));
    let audio = user_audio(0).next().unwrap();
    let error = conversation.unit(UnitInput { audio, text: QUESTION.into(), ..UnitInput::default() }).unwrap_err();
    assert!(error.to_string().contains("prompt.typed"), "{error}");
}
