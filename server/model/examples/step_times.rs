//! Times of single graph calls, one thread: `cargo run --release -p duologue-model --example step_times -- BUNDLE`.
//!
//! Prints the median, the 95th percentile and the mean processor time (Linux) in milliseconds. Inputs are arbitrary: the time does not depend on them.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use duologue_audio::wav::{self, Limits};
use duologue_model::{
    Apm, ApmCache, Bundle, Llm, Runtime, RuntimeOptions, Stream, StreamOptions, Token2Wav, Tts, VoiceFrontEnd,
};

const CALLS: usize = 300;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: step_times BUNDLE")?;
    let runtime = Runtime::load(&RuntimeOptions::default())?;
    let bundle = Bundle::open(&dir)?;
    llm(&runtime, &bundle)?;
    tts(&runtime, &bundle)?;
    apm(&runtime, &bundle)?;
    speech(&runtime, &bundle)
}

/// Time that this thread has spent on a core: what a call costs on a machine that others use too.
fn cpu_time() -> std::io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds))
}

/// Runs `call` often and prints how long it took.
fn measure(
    what: &str,
    calls: usize,
    mut call: impl FnMut() -> duologue_model::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::with_capacity(calls);
    let mut busy = Duration::ZERO;
    for round in 0..calls + calls / 10 {
        let (begun, busy_before) = (Instant::now(), cpu_time()?);
        call()?;
        if round >= calls / 10 {
            times.push(begun.elapsed());
            busy += cpu_time()? - busy_before;
        }
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (p50, p95) = (ms(times[calls / 2]), ms(times[calls * 95 / 100]));
    eprintln!("{what:<44} p50 {p50:8.3} ms   p95 {p95:8.3} ms   cpu {:8.3} ms", ms(busy) / calls as f64);
    Ok(())
}

fn llm(runtime: &Runtime, bundle: &Bundle) -> Result<(), Box<dyn Error>> {
    let mut llm = Llm::load(runtime, bundle, 8)?;
    let ids: Vec<u32> = (0..10).collect();
    let mut rows = Vec::new();
    llm.embed(&ids, &mut rows)?;
    measure("llm prefill of 10 rows, empty slot", CALLS, || {
        llm.rewind(0, 0);
        llm.prefill(0, &rows)
    })?;
    for filled in [200, 2000] {
        while llm.len(0) < filled {
            (0..8).try_for_each(|slot| llm.prefill(slot, &rows))?;
        }
        measure(&format!("llm decode, 1 slot, {filled} rows and more"), CALLS, || llm.decode(&[(0, 5)]))?;
        let all: Vec<(usize, u32)> = (0..8).map(|slot| (slot, 5)).collect();
        measure(&format!("llm decode, 8 slots, {filled} rows and more"), CALLS, || llm.decode(&all))?;
    }
    measure("llm remove of 20 rows in 2000", 20, || {
        let len = llm.len(0);
        llm.remove(0, 100..120)?;
        llm.prefill(0, &rows)?;
        llm.prefill(0, &rows)?;
        assert_eq!(llm.len(0), len);
        Ok(())
    })
}

fn tts(runtime: &Runtime, bundle: &Bundle) -> Result<(), Box<dyn Error>> {
    let mut tts = Tts::load(runtime, bundle, 8)?;
    let hidden = vec![0.1; 10 * bundle.manifest().llm.hidden];
    let ids: Vec<u32> = (0..10).collect();
    measure("tts condition of 10 tokens", CALLS, || tts.condition(&ids, &hidden).map(drop))?;
    let rows = tts.condition(&ids, &hidden)?;
    measure("tts prefill of 11 rows, empty slot", CALLS, || {
        tts.clear(0);
        tts.prefill(0, &rows)
    })?;
    measure("tts decode, 1 slot, 11 rows and more", CALLS, || tts.decode(&[(0, 5)]))?;
    let all: Vec<(usize, u32)> = (0..8).map(|slot| (slot, 5)).collect();
    measure("tts decode, 8 slots", CALLS, || tts.decode(&all))
}

fn apm(runtime: &Runtime, bundle: &Bundle) -> Result<(), Box<dyn Error>> {
    let Some(mut apm) = Apm::load(runtime, bundle)? else { return Ok(()) };
    let mel = vec![0.1; 104 * bundle.manifest().mel.n_mels];
    let mut cache = ApmCache::new();
    measure("apm step of 1 s, 0 to 29 s behind it", CALLS, || apm.step(&mel, 104, 2, 2, &mut cache).map(drop))
}

fn speech(runtime: &Runtime, bundle: &Bundle) -> Result<(), Box<dyn Error>> {
    let recording = wav::read_mono(&bundle.voice(None)?, Limits { min_seconds: 0.5, max_seconds: 30.0 })?;
    let begun = Instant::now();
    let prompt = VoiceFrontEnd::load(runtime, bundle)?.prompt(&recording)?;
    eprintln!("voice front ends, loading included: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let mut token2wav = Token2Wav::load(runtime, bundle)?;
    let begun = Instant::now();
    let voice = token2wav.setup(&prompt)?;
    eprintln!("voice set-up of {} frames: {:.0} ms", voice.prompt_frames(), begun.elapsed().as_secs_f64() * 1e3);
    let tokens: Vec<u32> = (0..28).collect();
    let mut stream = Stream::new(&voice, StreamOptions::fidelity());
    let (mut flow, mut hift) = (Duration::ZERO, Duration::ZERO);
    let calls = 30;
    measure("token2wav chunk of 25 tokens", calls, || {
        let chunk = token2wav.push(&mut stream, &tokens, false)?;
        flow += chunk.flow;
        hift += chunk.hift;
        Ok(())
    })?;
    let mean = |time: Duration| time.as_secs_f64() * 1e3 / (calls + calls / 10) as f64;
    eprintln!("  of which flow {:.2} ms, hift {:.2} ms (means)", mean(flow), mean(hift));
    Ok(())
}
