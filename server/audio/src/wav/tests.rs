//! Properties: every sample format gives the right numbers; every bad file gives a message that says what is wrong.

use super::*;
use tempfile::TempDir;

const ANY: Limits = Limits { min_seconds: 0.0, max_seconds: 600.0 };
const INT16: WavSpec =
    WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
const FLOAT: WavSpec = WavSpec { bits_per_sample: 32, sample_format: SampleFormat::Float, ..INT16 };

fn write<S: hound::Sample + Copy>(folder: &TempDir, spec: WavSpec, samples: &[S]) -> PathBuf {
    let path = folder.path().join("test.wav");
    let mut writer = WavWriter::create(&path, spec).expect("create");
    for &sample in samples {
        writer.write_sample(sample).expect("write");
    }
    writer.finalize().expect("finalize");
    path
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// The message for a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let folder = folder();
    let path = folder.path().join("bad.wav");
    std::fs::write(&path, bytes).expect("write");
    let message = read_mono(&path, ANY).expect_err("must be refused").to_string();
    assert!(message.contains("bad.wav"), "the file is named: {message}");
    message
}

#[test]
fn integer_formats_keep_their_scale() {
    let folder = folder();
    for (bits, full) in [(8u16, 1i64 << 7), (16, 1 << 15), (24, 1 << 23), (32, 1 << 31)] {
        let spec = WavSpec { bits_per_sample: bits, ..INT16 };
        let path = write(&folder, spec, &[0i32, (full / 2) as i32, -full as i32, (full - 1) as i32]);
        let pcm = read_mono(&path, ANY).expect("valid");
        assert_eq!(pcm.samples[..3], [0.0, 0.5, -1.0], "{bits} bit");
        assert!((pcm.samples[3] - 1.0).abs() <= 1.0 / full as f32, "{bits} bit");
    }
}

#[test]
fn channels_are_averaged_up_to_eight() {
    let folder = folder();
    for channels in [2u16, 7, 8] {
        let frame: Vec<f32> = (0..channels).map(|c| f32::from(c) / 8.0).collect();
        let path = write(&folder, WavSpec { channels, ..FLOAT }, &frame.repeat(5));
        let wanted = frame.iter().sum::<f32>() / f32::from(channels);
        assert_eq!(read_mono(&path, ANY).expect("valid").samples, [wanted; 5]);
    }
    let path = write(&folder, WavSpec { channels: 2, ..FLOAT }, &[f32::MAX; 4]);
    assert_eq!(read_mono(&path, ANY).expect("valid").samples, [f32::MAX; 2], "their sum would be infinite");
    let path = write(&folder, WavSpec { channels: 9, ..FLOAT }, &[0.0f32; 18]);
    let message = read_mono(&path, ANY).expect_err("9 channels").to_string();
    assert!(message.contains("9 channels; 1 to 8 are accepted"), "{message}");
}

#[test]
fn rates_from_8_to_192_khz() {
    let folder = folder();
    for sample_rate in [8_000, 44_100, 192_000] {
        let path = write(&folder, WavSpec { sample_rate, ..INT16 }, &[1i16; 400]);
        assert_eq!(read_mono(&path, ANY).expect("valid").rate_hz, sample_rate);
    }
    for sample_rate in [7_999, 192_001] {
        let path = write(&folder, WavSpec { sample_rate, ..INT16 }, &[1i16; 400]);
        let message = read_mono(&path, ANY).expect_err("rate").to_string();
        assert!(message.contains(&format!("sample rate {sample_rate} Hz; 8000 to 192000 Hz")), "{message}");
    }
}

#[test]
fn files_that_are_no_wav() {
    assert!(refusal(b"").contains("the file is empty (0 bytes)"));
    assert!(refusal(b"hello, I am a text file, not a recording").contains("not a wav file"));
    assert!(refusal(b"hi").contains("not a wav file"));
    assert!(refusal(b"RIFF\x24\x00\x00\x00AVI LIST").contains("not a wav file"));
    let missing = read_mono(Path::new("no/such/file.wav"), ANY).expect_err("missing").to_string();
    assert!(missing.starts_with("no/such/file.wav: "), "{missing}");
}

#[test]
fn files_cut_at_every_byte_say_so() {
    let whole = encode_mono_i16(16_000, &[100; 300]);
    for length in 4..whole.len() {
        let message = refusal(&whole[..length]);
        let expected = if length < 44 { "header is broken or cut off" } else { "header promises 300 samples" };
        assert!(message.contains(expected), "cut after {length} bytes: {message}");
        if length >= 44 {
            assert!(message.ends_with(&format!("ends after {}", (length - 44) / 2)), "{message}");
        }
    }
}

#[test]
fn a_stereo_file_cut_inside_a_frame_counts_whole_frames() {
    let folder = folder();
    let path = write(&folder, WavSpec { channels: 2, ..INT16 }, &[5i16; 40]);
    let bytes = std::fs::read(&path).expect("read");
    assert!(refusal(&bytes[..bytes.len() - 3]).contains("promises 20 samples per channel, the file ends after 19"));
}

#[test]
fn zero_samples() {
    assert!(refusal(&encode_mono_i16(16_000, &[])).contains("holds 0 samples"));
}

#[test]
fn other_codings() {
    let mut mu_law = encode_mono_i16(8_000, &[0; 100]);
    mu_law[20] = 7; // WAVE_FORMAT_MULAW
    assert!(refusal(&mu_law).contains("unsupported wav coding"));
}

#[test]
fn the_first_bad_float_is_named() {
    let folder = folder();
    let stereo = WavSpec { channels: 2, ..FLOAT };
    for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let path = write(&folder, stereo, &[0.0, 0.0, 0.0, bad, bad, 0.0]);
        let message = read_mono(&path, ANY).expect_err("not finite").to_string();
        assert!(message.contains(&format!("sample 1 of channel 1 is {name}, not a finite number")), "{message}");
    }
    let path = write(&folder, FLOAT, &[f32::NAN; 100]);
    assert!(read_mono(&path, ANY).expect_err("NaN-filled").to_string().contains("sample 0 of channel 0 is NaN"));
}

#[test]
fn the_callers_limits_hold() {
    let folder = folder();
    let limits = Limits { min_seconds: 0.5, max_seconds: 60.0 };
    let message = |seconds: f64| {
        let path = write(&folder, INT16, &vec![0i16; (seconds * 16_000.0) as usize]);
        read_mono(&path, limits).map_err(|error| error.to_string())
    };
    assert!(message(0.1).expect_err("too short").contains("0.10 s of sound; at least 0.50 s are needed"));
    assert!(message(600.0).expect_err("too long").contains("600.00 s of sound; at most 60.00 s are accepted"));
    assert_eq!(message(0.5).expect("at the limit").seconds(), 0.5);
    assert_eq!(message(60.0).expect("at the limit").seconds(), 60.0);
}

#[test]
fn what_is_written_can_be_read_and_leaves_nothing_beside_it() {
    let folder = folder();
    let path = folder.path().join("out.wav");
    let samples: Vec<i16> = (0..1000).map(|i| (i * 61 - 30_000) as i16).collect();
    for _ in 0..2 {
        write_mono_i16(&path, 24_000, &samples).expect("write over an older file too");
        let pcm = read_mono(&path, ANY).expect("valid");
        assert_eq!(pcm.rate_hz, 24_000);
        assert!(pcm.samples.iter().zip(&samples).all(|(&f, &i)| f == f32::from(i) / 32_768.0));
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1, "no partial file stays");
    }
}

#[test]
fn a_failed_write_names_the_file_and_keeps_the_old_one() {
    let folder = folder();
    let path = folder.path().join("missing").join("out.wav");
    let message = write_mono_i16(&path, 24_000, &[0; 10]).expect_err("no such folder").to_string();
    assert!(message.contains("out.wav"), "{message}");

    let occupied = folder.path().join("out.wav");
    std::fs::create_dir(&occupied).expect("a folder where the file should go");
    assert!(write_mono_i16(&occupied, 24_000, &[0; 10]).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1, "the partial file is removed");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let error = write_and_sync(&mut full, &encode_mono_i16(24_000, &[0; 10])).expect_err("disk full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}
