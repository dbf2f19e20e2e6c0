//! Asserted here: the library is found without being told, and a missing, foreign or too old one, an unknown device and an
//! unusable CUDA device are refused with what was found and what to do.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::golden;

fn load(library: &Path) -> ModelError {
    let options = RuntimeOptions { library: Some(library.to_path_buf()), ..RuntimeOptions::default() };
    Runtime::load(&options).expect_err("an unusable library must be refused")
}

#[track_caller]
fn assert_mentions(error: &ModelError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_library_is_found_and_runs_on_the_cpu() {
    let runtime = golden::runtime();
    assert!(runtime.library().is_file());
    assert!(runtime.version().starts_with("1."), "{}", runtime.version());
    let providers = runtime.usable_providers();
    assert_eq!(providers[0], Provider { name: "cpu".to_owned(), problem: None });
    assert_eq!(providers[1].name, "cuda:0");
    // The same library by another name is the same library.
    let link = tempfile::tempdir().expect("temporary folder");
    let other_name = link.path().join("libonnxruntime.so");
    std::os::unix::fs::symlink(runtime.library(), &other_name).expect("link");
    let options = RuntimeOptions { library: Some(other_name), ..RuntimeOptions::default() };
    assert_eq!(Runtime::load(&options).expect("loaded already").library(), runtime.library());
}

#[test]
fn an_absent_library_is_told_with_the_remedy() {
    golden::runtime();
    let error = load(Path::new("/nowhere/libonnxruntime.so"));
    assert_mentions(&error, &["/nowhere/libonnxruntime.so", "no such file", "make exporter", "1.24", "DUOLOGUE_ORT"]);
}

#[test]
fn a_text_file_and_a_foreign_library_are_told_apart() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let text = dir.path().join("libonnxruntime.so");
    std::fs::write(&text, "not a library").expect("write");
    assert_mentions(&load(&text), &["libonnxruntime.so is not a usable ONNX Runtime library", "make exporter"]);
    let foreign = build(dir.path(), "foreign", "#[unsafe(no_mangle)] pub extern \"C\" fn something_else() {}");
    assert_mentions(&load(&foreign), &["does not export OrtGetApiBase", "make exporter"]);
}

#[test]
fn a_too_old_library_is_told_with_both_versions() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let source = r#"
        #[repr(C)] pub struct Base { api: extern "C" fn(u32) -> *const u8, version: extern "C" fn() -> *const u8 }
        extern "C" fn api(_: u32) -> *const u8 { std::ptr::null() }
        extern "C" fn version() -> *const u8 { b"1.17.3\0".as_ptr() }
        static BASE: Base = Base { api, version };
        #[unsafe(no_mangle)] pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
    "#;
    let old = build(dir.path(), "old", source);
    assert_mentions(&load(&old), &["is ONNX Runtime 1.17.3", "needs 1.24 or newer", "make exporter"]);
}

#[test]
fn the_target_of_a_bundle_settles_auto_and_nothing_else() {
    assert_eq!(DeviceChoice::Auto.for_target(Target::Cpu), DeviceChoice::Cpu);
    assert_eq!(DeviceChoice::Auto.for_target(Target::Cuda), DeviceChoice::Cuda(0));
    for named in [DeviceChoice::Cpu, DeviceChoice::Cuda(2)] {
        assert_eq!([Target::Cpu, Target::Cuda].map(|target| named.for_target(target)), [named; 2]);
    }
}

/// Compiles a small shared library with the Rust compiler that built this test.
fn build(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (input, output) = (dir.join(format!("{name}.rs")), dir.join(format!("lib{name}.so")));
    std::fs::write(&input, source).expect("write");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(compiler)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&output, &input])
        .status()
        .expect("the Rust compiler runs");
    assert!(status.success());
    output
}

#[test]
fn devices_are_read_and_cuda_is_never_replaced() {
    assert_eq!("cpu".parse::<DeviceChoice>().expect("known"), DeviceChoice::Cpu);
    assert_eq!("cuda".parse::<DeviceChoice>().expect("known"), DeviceChoice::Cuda(0));
    assert_eq!("cuda:3".parse::<DeviceChoice>().expect("known"), DeviceChoice::Cuda(3));
    assert_eq!("auto".parse::<DeviceChoice>().expect("known"), DeviceChoice::Auto);
    assert_mentions(&"gpu".parse::<DeviceChoice>().expect_err("unknown"), &["\"gpu\"", "cpu, cuda, cuda:N or auto"]);
    let problem = golden::runtime().usable_providers().remove(1).problem;
    let cuda = Runtime::load(&RuntimeOptions { device: DeviceChoice::Cuda(0), ..RuntimeOptions::default() });
    let auto = Runtime::load(&RuntimeOptions { device: DeviceChoice::Auto, ..RuntimeOptions::default() });
    match problem {
        None => assert_eq!(cuda.expect("usable").device(), auto.expect("usable").device()),
        Some(_) => {
            let error = cuda.expect_err("not usable");
            assert_mentions(&error, &["cuda:0 was asked for", "onnxruntime-gpu", "--device cpu"]);
            assert_eq!(auto.expect("falls to the cpu by its name").device(), Device::Cpu);
        }
    }
}
