//! Asserted here:
//! 1. every graph of a bundle made for CUDA fits the contract (names, types, shapes), at every precision that exists;
//! 2. with float16 caches the vocoder and the llm compute what the fp32 bundle does, as near as float16 is;
//! 3. a bundle is refused by name on the other kind of device, with the remedy;
//! 4. ONNX Runtime tells of every node of a graph where it runs.

use super::placement::HOST_PROVIDER;
use super::{Graph, Kind, Use, port};
use crate::golden::{altered_bundle, bundle, cuda_bundle, pcc, runtime, voice_prompt};
use crate::{Apm, Bundle, Device, Llm, Stream, StreamOptions, Token2Wav, Tts, Vision, VoiceFrontEnd};

/// Loads everything, which compares all inputs and outputs with the contract.
fn load_all(bundle: &Bundle) -> (Llm, Tts, Token2Wav, VoiceFrontEnd) {
    let runtime = runtime();
    assert!(Apm::load(runtime, bundle).expect("apm").is_some());
    assert!(Vision::load(runtime, bundle).expect("vision").is_some());
    (
        Llm::load(runtime, bundle, 1).expect("llm"),
        Tts::load(runtime, bundle, 1).expect("tts"),
        Token2Wav::load(runtime, bundle).expect("token2wav"),
        VoiceFrontEnd::load(runtime, bundle).expect("voice front end"),
    )
}

/// Mels of a turn long enough to trim every cache.
fn speak(token2wav: &mut Token2Wav) -> Vec<Vec<f32>> {
    let voice = token2wav.setup(&voice_prompt()).expect("a good prompt");
    let mut stream = Stream::new(&voice, StreamOptions::fidelity());
    let tokens: Vec<u32> = (0..28).map(|n| n * 200 % 6500).collect();
    (0..5).map(|_| token2wav.push(&mut stream, &tokens, false).expect("runs").mel).collect()
}

fn logits(llm: &mut Llm) -> Vec<f32> {
    let mut rows = Vec::new();
    llm.embed(&[5, 6, 7, 8, 9], &mut rows).expect("in the table");
    llm.prefill(0, &rows).expect("room");
    llm.decode(&[(0, 20)]).expect("room");
    llm.logits(0).to_vec()
}

#[test]
fn float16_bundles_fit_the_contract_and_compute_the_same() {
    let (mut llm, _, mut token2wav, _) = load_all(&bundle());
    let (wanted_logits, wanted_mels) = (logits(&mut llm), speak(&mut token2wav));
    let (_dir, half) = cuda_bundle("fp16");
    let (mut llm, _, mut token2wav, _) = load_all(&half);
    let correlation = pcc(&logits(&mut llm), &wanted_logits);
    assert!(correlation > 0.999, "logits: pcc {correlation}");
    for (chunk, (got, wanted)) in speak(&mut token2wav).iter().zip(&wanted_mels).enumerate() {
        let correlation = pcc(got, wanted);
        eprintln!("chunk {chunk}: pcc {correlation:.6}");
        assert!(correlation > 0.999, "mel of chunk {chunk}: pcc {correlation}");
    }
}

#[test]
fn quantised_bundles_for_cuda_fit_the_contract() {
    for precision in ["int8", "int4"] {
        let (_dir, bundle) = cuda_bundle(precision);
        load_all(&bundle);
    }
}

#[test]
fn a_bundle_is_refused_on_the_other_kind_of_device() {
    let dir = altered_bundle(|manifest| manifest["target"] = "cuda".into());
    let for_cuda = Bundle::open(dir.path()).expect("files are fine");
    let cases = [
        (runtime().clone(), for_cuda, ["target is cuda but the device is cpu", "--device cuda", "--target cpu"]),
        (
            runtime().claiming(Device::Cuda(1)),
            bundle(),
            ["target is cpu but the device is cuda:1", "GroupQueryAttention", "--target cuda"],
        ),
    ];
    for (runtime, bundle, parts) in cases {
        let errors = [
            Llm::load(&runtime, &bundle, 1).expect_err("llm on the wrong device"),
            Apm::load(&runtime, &bundle).expect_err("apm on the wrong device"),
            VoiceFrontEnd::load(&runtime, &bundle).expect_err("front ends on the wrong device"),
        ];
        for text in errors.map(|error| error.to_string()) {
            assert!(text.contains("manifest.json"), "{text}");
            for part in parts {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
    }
}

#[test]
fn every_node_of_a_graph_has_a_known_place() {
    let inputs = [port("embedding", Kind::F32, &[-1, -1])];
    let outputs = [port("spk", Kind::F32, &[-1, -1])];
    let graph = Graph::load(runtime(), &bundle(), "flow_speaker.onnx", Use::Chunk, &inputs, &outputs).expect("it fits");
    let nodes = crate::raw::placement(graph.session()).expect("the record was asked for");
    assert!(nodes.iter().any(|node| node.operator == "MatMul" || node.operator == "Gemm"), "{nodes:?}");
    assert!(nodes.iter().all(|node| node.provider == HOST_PROVIDER && !node.name.is_empty()), "{nodes:?}");
}
