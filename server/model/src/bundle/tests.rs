//! Asserted here: a good bundle opens and verifies; every damage is told with the file, what is wrong and what to do.

use std::path::Path;

use super::*;
use crate::golden::{self, altered_bundle as copy};

fn refusal(dir: &Path) -> String {
    Bundle::open(dir).expect_err("a damaged bundle must not open").to_string()
}

fn replace(dir: &Path, file: &str, bytes: &[u8]) {
    let path = dir.join(file);
    std::fs::remove_file(&path).expect("remove the link");
    std::fs::write(path, bytes).expect("write");
}

#[track_caller]
fn assert_mentions(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_good_bundle_opens_and_verifies() {
    let bundle = golden::bundle();
    let (mut files, mut last) = (std::collections::BTreeSet::new(), 0);
    bundle
        .verify_files(&mut |progress| {
            files.insert(progress.file.to_owned());
            assert!(progress.done_bytes >= last && progress.done_bytes <= progress.total_bytes);
            last = progress.done_bytes;
        })
        .expect("checksums fit");
    assert_eq!(files.len(), bundle.manifest().files.len());
    assert!(bundle.voice(None).expect("a default voice").is_file());
    assert_mentions(&bundle.voice(Some("nobody")).expect_err("no such voice").to_string(), &["\"nobody\"", "default"]);
}

#[test]
fn a_folder_without_a_bundle_is_told_how_to_make_one() {
    let dir = tempfile::tempdir().expect("temporary folder");
    assert_mentions(&refusal(dir.path()), &["manifest.json is missing", "duologue-export export"]);
    assert_mentions(&refusal(&dir.path().join("nowhere")), &["nowhere", "does not exist", "duologue-export export"]);
}

#[test]
fn another_format_or_version_is_named_before_its_fields() {
    let dir = copy(|manifest| {
        manifest["format_version"] = 4.into();
        manifest["something_new"] = true.into();
    });
    assert_mentions(&refusal(dir.path()), &["manifest.json", "format_version is 4", "reads version 3", "export"]);
    let dir = copy(|manifest| manifest["format"] = "other".into());
    assert_mentions(&refusal(dir.path()), &["format is other", "duologue-bundle"]);
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join(MANIFEST), "not json").expect("write");
    assert_mentions(&refusal(dir.path()), &["manifest.json", "not a JSON object"]);
}

#[test]
fn missing_and_unknown_fields_are_named() {
    let dir = copy(|manifest| {
        manifest["llm"].as_object_mut().expect("object").remove("rope_theta");
    });
    assert_mentions(&refusal(dir.path()), &["manifest.json", "rope_theta"]);
    let dir = copy(|manifest| manifest["llm"]["rope_scale"] = 2.into());
    assert_mentions(&refusal(dir.path()), &["unknown field `rope_scale`"]);
    let dir = copy(|manifest| manifest["hift"] = serde_json::Value::Null);
    assert_mentions(&refusal(dir.path()), &["hift must be present exactly when tts is"]);
    let dir = copy(|manifest| {
        manifest["files"].as_object_mut().expect("object").remove("hift.onnx");
    });
    assert_mentions(&refusal(dir.path()), &["hift.onnx is needed but not listed"]);
}

#[test]
fn a_first_unit_is_no_shorter_than_the_others_and_ahead_by_the_rest() {
    let dir = copy(|manifest| manifest["tts"]["first_unit_codes"] = 24.into());
    assert_mentions(&refusal(dir.path()), &["tts.first_unit_codes is 24", "25"]);
    let dir = copy(|manifest| manifest["tts"]["first_unit_codes"] = 35.into());
    let ahead = Bundle::open(dir.path()).expect("files are fine").manifest().ahead();
    assert_eq!(ahead, std::time::Duration::from_millis(400));
}

#[test]
fn missing_truncated_and_changed_files_are_named() {
    let dir = copy(|_| ());
    std::fs::remove_file(dir.path().join("apm.onnx")).expect("remove");
    assert_mentions(&refusal(dir.path()), &["apm.onnx", "missing", "copy the bundle again"]);

    let dir = copy(|_| ());
    let bytes = std::fs::read(dir.path().join("hift.onnx")).expect("read");
    replace(dir.path(), "hift.onnx", &bytes[..bytes.len() - 10]);
    let (found, whole) = ((bytes.len() - 10).to_string(), bytes.len().to_string());
    assert_mentions(&refusal(dir.path()), &["hift.onnx", "truncated", &found, &whole]);

    let dir = copy(|_| ());
    let mut changed = bytes;
    changed[100] ^= 1;
    replace(dir.path(), "hift.onnx", &changed);
    let bundle = Bundle::open(dir.path()).expect("the size is right");
    let error = bundle.verify_files(&mut |_| ()).expect_err("the checksum is wrong").to_string();
    assert_mentions(&error, &["hift.onnx", "sha256", "copy the bundle again"]);
}

#[test]
fn a_graph_that_does_not_fit_its_manifest_is_refused_by_its_input() {
    let dir = copy(|manifest| manifest["apm"]["head_dim"] = 32.into());
    let bundle = Bundle::open(dir.path()).expect("files are fine");
    let error = crate::Apm::load(golden::runtime(), &bundle).expect_err("wrong width").to_string();
    assert_mentions(&error, &["apm.onnx", "past_key", "[?, 3, 4, 16]", "[?, 3, 4, 32]"]);

    let dir = copy(|_| ());
    replace(dir.path(), "apm.onnx", &std::fs::read(dir.path().join("hift.onnx")).expect("read"));
    let bundle = golden::bundle();
    let manifest = std::fs::read_to_string(dir.path().join(MANIFEST)).expect("read");
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).expect("json");
    manifest["files"]["apm.onnx"] = serde_json::json!({
        "bytes": bundle.manifest().files["hift.onnx"].bytes, "sha256": bundle.manifest().files["hift.onnx"].sha256,
    });
    std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).expect("write");
    let bundle = Bundle::open(dir.path()).expect("files are fine");
    let error = crate::Apm::load(golden::runtime(), &bundle).expect_err("another graph").to_string();
    assert_mentions(&error, &["apm.onnx", "frame_idx is missing"]);

    let dir = copy(|manifest| manifest["files"]["apm.onnx"]["bytes"] = 9.into());
    replace(dir.path(), "apm.onnx", b"not onnx!");
    let bundle = Bundle::open(dir.path()).expect("the size is right");
    let error = crate::Apm::load(golden::runtime(), &bundle).expect_err("no graph").to_string();
    assert_mentions(&error, &["apm.onnx", "could not load the graph"]);
}

#[test]
fn the_opset_comes_from_the_graph_and_not_from_the_manifest() {
    let wanted: Vec<(String, u64)> =
        golden::bundle().manifest().graphs.iter().map(|(name, graph)| (name.clone(), graph.opset.into())).collect();
    let dir = copy(|manifest| {
        for graph in manifest["graphs"].as_object_mut().expect("object").values_mut() {
            graph["opset"] = 99.into();
        }
    });
    let bundle = Bundle::open(dir.path()).expect("files are fine");
    for (name, opset) in &wanted {
        assert_eq!(bundle.opset(name).expect("a graph"), *opset, "{name}");
    }
    let name = "hift.onnx";
    let whole = std::fs::read(dir.path().join(name)).expect("read");
    for bytes in [&whole[..whole.len() / 2], b"", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"not onnx"] {
        replace(dir.path(), name, bytes);
        let error = bundle.opset(name).expect_err("no whole graph").to_string();
        assert_mentions(&error, &[name, "its opset cannot be read", "export it again"]);
    }
}

#[test]
fn a_bundle_without_a_part_says_so() {
    let dir = copy(|manifest| {
        for part in ["apm", "vision", "tts", "token2wav", "flow", "hift", "voice"] {
            manifest[part] = serde_json::Value::Null;
        }
    });
    let bundle = Bundle::open(dir.path()).expect("a text-only bundle is fine");
    assert!(crate::Apm::load(golden::runtime(), &bundle).expect("no error").is_none());
    assert!(crate::Vision::load(golden::runtime(), &bundle).expect("no error").is_none());
    let error = crate::Token2Wav::load(golden::runtime(), &bundle).expect_err("cannot speak").to_string();
    assert_mentions(&error, &["no tts part", "export it again"]);
}

#[test]
fn the_projects_own_bundle_is_found_from_any_folder_below() {
    let root = tempfile::tempdir().expect("a folder");
    let own = root.path().join(super::OWN);
    let deep = root.path().join("target/release");
    for folder in [&own, &deep] {
        std::fs::create_dir_all(folder).expect("made");
    }
    let error = own_above([deep.as_path()].into_iter()).expect_err("nothing is there yet");
    assert!(error.to_string().contains("--bundle DIR"), "{error}");
    std::fs::write(own.join(MANIFEST), "{}").expect("written");
    assert_eq!(own_above([deep.as_path()].into_iter()).expect("found"), own);
}
