//! `duologue bench` against a scripted model, over both transports.
//!
//! 1. A run leaves complete rows: every unit, a reply with all its moments in order, an answer; and JSON, page and table.
//! 2. A gate of 0 ms is broken: exit status 1 and a plain line. Gates that hold leave it at 0.
//! 3. A model that is slow on purpose is caught by a gate on the unit time.
//! 4. What cannot be measured is exit status 2: a scenario with a slip of the pen, a server that is not there.
//! 5. A report compared with itself has not changed.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use duologue_bench::client::Transport;
use duologue_bench::metric::Metric;
use duologue_bench::report::{self, Report, ScenarioResult};
use duologue_bench::scenario::Load;
use duologue_proto::timeline::Decision;
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::Server;
use duologue_tests::{duologue, root};
use duologue_transport::Limits;

/// The player's clock counts whole samples.
const SAMPLE_MS: f64 = 1e3 / 24_000.0;

/// A scenario of some four seconds: a voice, then silence.
fn scenario(folder: &Path, gates: &str) -> PathBuf {
    let wav = root().join("tests/audio/interruption/excuse_me.wav");
    let user = format!("[[user]]\nwav = {wav:?}\nquiet_s = 3.4\n");
    let path = folder.join("short.toml");
    std::fs::write(&path, format!("about = \"A question\"\n{user}{gates}")).unwrap();
    path
}

fn backend() -> ScriptedBackend {
    let plans: Vec<Plan> = [Plan::Listen, Plan::End("yes")].into_iter().cycle().take(20).collect();
    ScriptedBackend::new(2, &plans)
}

/// Runs the program against a server in this process.
async fn bench(backend: ScriptedBackend, arguments: &[&str]) -> Output {
    let server = Server::start(backend, Limits::default()).await;
    let url = format!("http://{}", server.address);
    let arguments: Vec<String> = ["bench", "--server", &url].iter().chain(arguments).map(|a| (*a).to_owned()).collect();
    let run = move || duologue(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_complete(result: &ScenarioResult) {
    let rows = &result.rows;
    assert_eq!((rows.sessions.len(), rows.said.len()), (1, 1));
    assert!(rows.sessions[0].failed.is_none() && !rows.sessions[0].refused, "{:?}", rows.sessions);
    let numbers: Vec<u64> = rows.units.iter().map(|unit| unit.unit).collect();
    assert!(numbers.len() >= 3 && numbers == (0..numbers.len() as u64).collect::<Vec<_>>(), "{numbers:?}");
    for decision in [Decision::Listen, Decision::Speak] {
        assert!(rows.units.iter().any(|unit| unit.decision == decision), "{decision:?}");
    }
    let reply = rows.replies.first().expect("a reply");
    let heard = [reply.arrived_ms, reply.played_ms, reply.audible_ms, reply.silent_ms].map(Option::unwrap);
    let in_order = heard.windows(2).all(|pair| pair[0] <= pair[1] + SAMPLE_MS);
    assert!(reply.ready_ms < heard[0] && in_order, "{reply:?}");
    assert!(reply.made_ms.is_some() && !reply.interrupted, "{reply:?}");
    assert_eq!(rows.said[0].answered_by, Some(reply.turn));
    assert!(rows.said[0].first_voiced_ms < rows.said[0].last_voiced_ms);
    for metric in [Metric::Ttfa, Metric::Ttfb, Metric::Made, Metric::UnitTime, Metric::SpeakUnit, Metric::Connect] {
        assert!(result.figure(metric, Load::Sessions(1)).is_some(), "{metric}");
    }
    assert_eq!(result.figure(Metric::Failed, Load::Sessions(1)).unwrap().summary.sum, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_leaves_complete_rows_and_a_gate_of_0_ms_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let gates = "[[gates]]\nmetric = \"ttfb\"\nat_most_ms = 0\n[[gates]]\nmetric = \"failed_sessions\"\nat_most = 0\n";
    let scenario = scenario(folder.path(), gates);
    let [json, page] = ["report.json", "report.html"].map(|name| folder.path().join(name).display().to_string());
    let transports = ["--transport", "websocket", "--transport", "webrtc"];
    let files = ["--json", &json, "--html", &page, scenario.to_str().unwrap()];
    let output = bench(backend(), &[&transports[..], &files].concat()).await;
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{error}");
    assert!(error.contains("gate broken: short over websocket: ttfb p95 is "), "{error}");
    assert!(out.contains("short over webrtc, 1 run") && out.contains("gate holds: failed_sessions"), "{out}");

    let report: Report = report::read(Path::new(&json)).unwrap();
    let transports: Vec<Transport> = report.results.iter().map(|result| result.transport).collect();
    assert_eq!(transports, [Transport::Websocket, Transport::Webrtc]);
    report.results.iter().for_each(assert_complete);
    assert_eq!(report.environment.bundle.unwrap().name, "script");

    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    assert!(!page.contains("http://www") && !page.contains("src="), "it needs nothing from outside");

    let compared = duologue(&["bench", "compare", &json, &json, "--fail-on-regression"]);
    assert_eq!(compared.status.code(), Some(0), "{}", text(&compared.stderr));
    assert!(text(&compared.stdout).contains(" 0 better, 0 worse"), "{}", text(&compared.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_model_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let slow = backend().unit_time(Duration::from_millis(500));
    let gate = |bound: u32| format!("[[gates]]\nmetric = \"unit_time\"\nquantile = 0.5\nat_most_ms = {bound}\n");
    let scenario = scenario(folder.path(), &(gate(400) + &gate(60_000)));
    let output = bench(slow, &[scenario.to_str().unwrap()]).await;
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("unit_time p50") && error.contains("allowed 400 ms"), "{error}");
    assert_eq!(error.matches("gate broken").count(), 1, "{error}");
    assert!(out.contains("allowed 60000 ms"), "{out}");
}

#[test]
fn what_cannot_be_measured_is_said_with_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let slip = scenario(folder.path(), "[[gates]]\nmetric = \"tfb\"\nat_most_ms = 1\n");
    let good = folder.path().join("good.toml");
    std::fs::write(&good, "about = \"x\"\n[[user]]\nquiet_s = 0.1\n").unwrap();
    let good = good.to_str().unwrap();
    for (arguments, wanted) in [
        (vec!["bench", slip.to_str().unwrap()], "unknown variant `tfb`"),
        (vec!["bench", good, "--server", "https://127.0.0.1:1"], "TLS is not spoken here"),
        (vec!["bench", good, "--server", "http://127.0.0.1:1"], "connecting"),
        (vec!["bench", good, "--runs", "0"], "nothing is measured in 0 runs"),
        (vec!["bench", "compare", good, good], "no report"),
    ] {
        let output = duologue(&arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(wanted), "{arguments:?}: {error}");
    }
}
