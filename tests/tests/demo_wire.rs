//! The MiniCPM-o-Demo wire end to end: a real server on a free port, real WebSockets, a backend that follows a script.
//!
//! The clients do what the demo's page and its benchmark do: `prepare` without waiting, one chunk, one answer.

use std::time::Duration;

use duologue_proto::payload::{Base64, FloatAudio};
use duologue_tests::scripted::{Plan, ScriptedBackend};
use duologue_tests::server::{PATIENCE, Server, Socket};
use duologue_transport::Limits;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

async fn start(slots: usize, script: &[Plan]) -> Server {
    Server::start(ScriptedBackend::new(slots, script), Limits::default()).await
}

async fn get(server: &Server, path: &str) -> Value {
    let (status, body) = server.request("GET", path, "").await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

struct Client {
    socket: Socket,
}

impl Client {
    async fn connect(server: &Server, path: &str) -> Self {
        Self { socket: server.connect(path).await }
    }

    /// A client that has a place, as the page knows it.
    async fn at_gateway(server: &Server, id: &str) -> Self {
        let mut client = Self::connect(server, &format!("/ws/duplex/{id}")).await;
        client.hear_type("queue_done").await;
        client
    }

    async fn say(&mut self, message: &Value) {
        self.socket.send(message).await;
    }

    async fn hear(&mut self) -> Value {
        self.socket.next().await.expect("the connection is open")
    }

    /// The very next message, which must be of this type.
    async fn hear_type(&mut self, kind: &str) -> Value {
        let message = self.hear().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    async fn closed(&mut self) -> (u16, String) {
        self.socket.closed().await
    }

    async fn prepare(&mut self) -> Value {
        self.say(&json!({"type": "prepare", "system_prompt": "Be brief.", "config": {"length_penalty": 1.1}})).await;
        self.hear_type("prepared").await
    }

    /// Sends a chunk and returns its one answer.
    async fn chunk(&mut self, samples: usize) -> Value {
        self.say(&chunk(samples)).await;
        self.hear().await
    }
}

fn chunk(samples: usize) -> Value {
    json!({"type": "audio_chunk", "audio_base64": FloatAudio(vec![0.1; samples])})
}

fn speech(result: &Value) -> Vec<f32> {
    serde_json::from_value::<FloatAudio>(result["audio_data"].clone()).expect("speech as f32").0
}

#[tokio::test]
async fn the_gateway_role_holds_a_session_as_the_page_does() {
    let script = [Plan::Listen, Plan::Speak("Hello"), Plan::End(" there."), Plan::Listen];
    let server = start(1, &script).await;
    let mut client = Client::at_gateway(&server, "adx_m3kf92").await;
    assert_eq!(client.prepare().await, json!({"type": "prepared", "prompt_length": 50}));

    let listen = client.chunk(16_000).await;
    assert_eq!(
        (&listen["type"], &listen["is_listen"], &listen["audio_data"]),
        (&json!("result"), &json!(true), &Value::Null)
    );
    let keys: Vec<_> = listen.as_object().expect("an object").keys().map(String::as_str).collect();
    for key in [
        "is_listen",
        "text",
        "audio_data",
        "end_of_turn",
        "current_time",
        "cost_llm_ms",
        "cost_tts_prep_ms",
        "cost_tts_ms",
        "cost_token2wav_ms",
        "cost_all_ms",
        "n_tokens",
        "n_tts_tokens",
        "server_send_ts",
        "wall_clock_ms",
        "kv_cache_length",
        "vision_slices",
        "vision_tokens",
    ] {
        assert!(keys.contains(&key), "{key} is missing: {listen}");
    }

    let first = client.chunk(16_000).await;
    assert_eq!(
        (&first["is_listen"], &first["text"], &first["current_time"]),
        (&json!(false), &json!("Hello"), &json!(2))
    );
    assert_eq!(first["kv_cache_length"], 76);
    assert_eq!(first["n_tts_tokens"], 25);
    let last = client.chunk(16_000).await;
    assert_eq!((&last["end_of_turn"], &last["text"]), (&json!(true), &json!(" there.")));
    for result in [&first, &last] {
        let samples = speech(result);
        let power: f32 = samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32;
        assert!(samples.len() == 24_000 && power > 0.01, "a second of tone, at once and whole");
    }

    client.say(&json!({"type": "pause"})).await;
    assert_eq!(client.hear_type("paused").await["timeout"], 60.0);
    let paused = get(&server, "/workers").await;
    assert_eq!(paused["workers"][0]["status"], "duplex_paused");
    assert_eq!(paused["workers"][0]["current_session_id"], "adx_m3kf92");
    assert_eq!(client.chunk(16_000).await, json!({"type": "error", "error": "Worker is paused"}));
    client.say(&json!({"type": "resume"})).await;
    client.hear_type("resumed").await;
    client.say(&json!({"type": "interrupt"})).await;
    client.hear_type("interrupted").await;
    client.say(&json!({"type": "client_diagnostic", "metrics": {"ahead": 1280}})).await;
    assert_eq!(client.chunk(16_000).await["current_time"], 4);

    client.say(&json!({"type": "stop"})).await;
    client.hear_type("stopped").await;
    assert_eq!(client.closed().await.0, 1000);
    server.idle().await;
}

#[tokio::test]
async fn the_worker_role_speaks_when_spoken_to_as_the_benchmark_expects() {
    let server = start(1, &[Plan::Listen, Plan::End("Yes.")]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    let voice = FloatAudio(vec![0.2; 32_000]);
    client.say(&json!({"type": "prepare", "system_prompt": "Be brief.", "ref_audio_base64": voice})).await;
    client.hear_type("prepared").await;
    assert_eq!(client.chunk(16_000).await["is_listen"], true);
    assert_eq!(client.chunk(16_000).await["text"], "Yes.");
    // A client that hangs up gives its place back at once: nobody can come back to it.
    drop(client);
    server.idle().await;
    let mut client = Client::connect(&server, "/ws/duplex?session_id=omni_1").await;
    client.prepare().await;
    assert_eq!(get(&server, "/workers").await["workers"][0]["current_request_type"], "omni_duplex");
}

#[tokio::test]
async fn fifty_milliseconds_at_a_time_get_an_answer_each() {
    let server = start(1, &[Plan::Speak("one")]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    client.prepare().await;
    // Without waiting: the answers come in order all the same.
    for _ in 0..40 {
        client.say(&chunk(800)).await;
    }
    for number in 1..=40 {
        let result = client.hear_type("result").await;
        assert_eq!(result["current_time"], number);
        assert_eq!(result["is_listen"], number != 20, "the 20th completes the unit that speaks: {result}");
        assert_eq!(result["audio_data"].is_null(), number != 20);
    }
}

#[tokio::test]
async fn a_prepare_that_comes_in_the_queue_is_kept() {
    let server = start(1, &[Plan::Listen]).await;
    let mut first = Client::at_gateway(&server, "adx_1").await;
    let mut second = Client::connect(&server, "/ws/duplex/adx_2").await;
    let queued = second.hear_type("queued").await;
    assert_eq!((&queued["position"], &queued["queue_length"]), (&json!(1), &json!(1)));
    second.say(&json!({"type": "prepare", "system_prompt": "Be brief."})).await;

    let ticket = queued["ticket_id"].as_str().expect("a ticket").to_owned();
    let place = get(&server, &format!("/api/queue/{ticket}")).await;
    assert_eq!((&place["found"], &place["ticket"]["session_id"]), (&json!(true), &json!("adx_2")));
    let queue = get(&server, "/api/queue").await;
    assert_eq!((&queue["queue_length"], &queue["items"][0]["ticket_id"]), (&json!(1), &json!(ticket)));
    let status = get(&server, "/status").await;
    assert_eq!((&status["idle_workers"], &status["queue_length"]), (&json!(0), &json!(1)));

    first.prepare().await;
    assert_eq!(get(&server, "/api/queue").await["running_tasks"][0]["request_type"], "audio_duplex");
    first.say(&json!({"type": "stop"})).await;
    second.hear_type("queue_done").await;
    second.hear_type("prepared").await;
    assert_eq!(second.chunk(16_000).await["type"], "result");
    assert_eq!(get(&server, &format!("/api/queue/{ticket}")).await["found"], false);
}

#[tokio::test]
async fn a_full_queue_and_a_busy_worker_close_with_1013() {
    let limits = Limits { queue: 1, ..Limits::default() };
    let server = Server::start(ScriptedBackend::new(1, &[]), limits).await;
    let _first = Client::at_gateway(&server, "adx_1").await;
    // The worker role waits five seconds in the only place of the queue.
    let mut busy = Client::connect(&server, "/ws/duplex").await;
    let waiting = async {
        while server.manager.load().waiting == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the worker's client waits");
    let mut third = Client::connect(&server, "/ws/duplex/adx_3").await;
    assert_eq!(third.hear().await, json!({"type": "error", "error": "Queue full (1 requests)"}));
    assert_eq!(third.closed().await, (1013, "Queue full".to_owned()));
    assert_eq!(busy.closed().await, (1013, "Worker busy after waiting 5s".to_owned()));
}

#[tokio::test]
async fn an_administrator_can_end_a_wait_and_close_a_page() {
    let server = start(1, &[]).await;
    let _first = Client::at_gateway(&server, "adx_1").await;
    let mut second = Client::connect(&server, "/ws/duplex/adx_2").await;
    let ticket = second.hear_type("queued").await["ticket_id"].as_str().expect("a ticket").to_owned();
    let path = format!("/api/queue/{ticket}");
    assert_eq!(server.request("DELETE", &path, "").await, (200, json!({"success": true})));
    assert_eq!(second.closed().await.0, 1000);
    assert_eq!(server.request("DELETE", &path, "").await, (200, json!({"success": false})));

    let off = server.request("PUT", "/api/admin/apps/audio_duplex", r#"{"enabled": false}"#).await;
    assert_eq!((off.0, &off.1["app"]["enabled"]), (200, &json!(false)));
    let mut third = Client::connect(&server, "/ws/duplex/adx_3").await;
    assert_eq!(third.closed().await, (1008, "audio_duplex is currently disabled".to_owned()));
    let open = get(&server, "/api/apps").await;
    assert_eq!(open["apps"].as_array().map(Vec::len), Some(1), "video is still open: {open}");
    assert_eq!(server.request("PUT", "/api/admin/apps/turnbased", r#"{"enabled": true}"#).await.0, 404);
    assert_eq!(server.request("PUT", "/api/admin/apps/omni", "on").await.0, 422);
}

#[tokio::test]
async fn a_pause_that_is_too_long_ends_with_timeout_and_1000() {
    let server = start(1, &[]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    client.prepare().await;
    client.say(&json!({"type": "pause", "timeout": 0.2})).await;
    assert_eq!(client.hear_type("paused").await["timeout"], 0.2);
    assert_eq!(client.hear().await, json!({"type": "timeout", "reason": "Pause timeout (0.2s)"}));
    assert_eq!(client.closed().await, (1000, "Pause timeout".to_owned()));
    server.idle().await;
}

#[tokio::test]
async fn bad_input_gets_an_error_and_the_session_goes_on() {
    let server = start(2, &[Plan::Speak("one")]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    for text in [
        "no JSON".to_owned(),
        r#"{"type":"tea"}"#.to_owned(),
        chunk(16_000).to_string(),
        r#"{"type":"prepare","config":{"temperature":"hot"}}"#.to_owned(),
        json!({"type": "prepare", "ref_audio_base64": FloatAudio(vec![0.5; 100])}).to_string(),
    ] {
        client.socket.send_text(&text).await;
        let error = client.hear_type("error").await;
        assert!(!error["error"].as_str().expect("a text").is_empty(), "{error}");
    }
    client.socket.send_bytes(vec![1, 2, 3]).await;
    assert_eq!(client.hear_type("error").await["error"], "a message is JSON text, not binary");

    client.prepare().await;
    let nan = Base64(f32::NAN.to_le_bytes().to_vec());
    for bad in [
        json!({"type": "prepare"}),
        json!({"type": "audio_chunk"}),
        json!({"type": "audio_chunk", "audio_base64": Base64(vec![0; 7])}),
        json!({"type": "audio_chunk", "audio_base64": nan}),
        json!({"type": "audio_chunk", "audio_base64": "?"}),
        json!({"type": "audio_chunk", "audio_base64": FloatAudio(vec![0.0; 10]), "frame_base64_list": ["AAAA"]}),
    ] {
        client.say(&bad).await;
        client.hear_type("error").await;
    }
    assert_eq!(client.chunk(16_000).await["text"], "one");
}

#[tokio::test]
async fn a_refused_session_and_a_broken_backend_say_why() {
    let server = start(2, &[Plan::Listen, Plan::Fail]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    client.say(&json!({"type": "prepare", "system_prompt": "refuse me"})).await;
    assert_eq!(client.hear().await, json!({"type": "error", "error": "the script refuses this"}));
    assert_eq!(client.closed().await.0, 1008);

    let (mut broken, mut other) =
        (Client::connect(&server, "/ws/duplex").await, Client::connect(&server, "/ws/duplex").await);
    broken.prepare().await;
    other.prepare().await;
    assert_eq!(broken.chunk(16_000).await["type"], "result");
    assert_eq!(broken.chunk(16_000).await, json!({"type": "error", "error": "the script broke"}));
    assert_eq!(broken.closed().await.0, 1011);
    assert_eq!(other.chunk(16_000).await["type"], "result", "the other one does not notice");
}

#[tokio::test]
async fn an_oversized_message_is_told_and_a_huge_one_cut_off() {
    let server = start(1, &[]).await;
    let mut client = Client::connect(&server, "/ws/duplex").await;
    let limit = duologue_proto::wire::Limits::default().max_message_bytes;
    client.socket.send_text(&" ".repeat(limit + 1)).await;
    let error = client.hear_type("error").await;
    assert!(error["error"].as_str().is_some_and(|text| text.contains("are allowed")), "{error}");
    client.prepare().await;
    drop(client);
    server.idle().await;

    let mut client = Client::connect(&server, "/ws/duplex").await;
    client.prepare().await;
    client.socket.try_send_text(&" ".repeat(2 * limit + 1)).await;
    server.idle().await;
}

#[tokio::test]
async fn the_rest_answers_what_the_page_asks() {
    let server = start(2, &[Plan::Listen]).await;
    let health = get(&server, "/health").await;
    assert_eq!((&health["status"], &health["worker_status"]), (&json!("healthy"), &json!("idle")));
    let status = get(&server, "/status").await;
    assert_eq!((&status["total_workers"], &status["idle_workers"]), (&json!(2), &json!(2)));
    assert_eq!(get(&server, "/api/apps").await["apps"][0]["app_id"], "audio_duplex");
    assert_eq!(get(&server, "/api/frontend_defaults").await["playback_delay_ms"], 200);
    assert_eq!(get(&server, "/api/assets/ref_audio").await, json!({"total": 0, "ref_audios": []}));
    assert!(get(&server, "/api/config/eta").await["config"]["eta_audio_duplex_s"].is_number());
    assert_eq!(get(&server, "/cache").await["workers"].as_array().map(Vec::len), Some(2));

    let voice = get(&server, "/api/default_ref_audio").await;
    assert_eq!((&voice["sample_rate"], &voice["samples"]), (&json!(16_000), &json!(16_000)));
    let preset = get(&server, "/api/presets").await["audio_duplex"][0].clone();
    assert_eq!(preset["system_prompt"], "You are a script.");
    let id = preset["id"].as_str().expect("an id");
    let audio = get(&server, &format!("/api/presets/audio_duplex/{id}/audio")).await;
    assert_eq!(audio["ref_audio"]["data"], voice["base64"]);

    let mut client = Client::at_gateway(&server, "adx_1").await;
    client.say(&json!({"type": "prepare", "ref_audio_base64": voice["base64"]})).await;
    client.hear_type("prepared").await;
    client.chunk(16_000).await;
    let workers = get(&server, "/workers").await;
    assert_eq!(
        (&workers["workers"][0]["status"], &workers["workers"][1]["status"]),
        (&json!("duplex_active"), &json!("idle"))
    );
    assert_eq!(workers["workers"][0]["total_requests"], 1);
    assert_eq!(workers["workers"][0]["port"], server.address.port());

    for (method, path, status) in [
        ("GET", "/api/presets/audio_duplex/nobody/audio", 404),
        ("GET", "/api/sessions/adx_1", 404),
        ("POST", "/api/sessions/adx_1/upload-recording", 404),
        ("POST", "/api/assets/ref_audio", 501),
        ("DELETE", "/api/assets/ref_audio/7d793037", 404),
        ("PUT", "/api/config/eta", 501),
        ("POST", "/api/chat", 501),
        ("GET", "/ws/half_duplex/hdx_1", 501),
        ("GET", "/api/nothing", 404),
    ] {
        let (got, body) = server.request(method, path, "").await;
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(body["detail"].is_string(), "{method} {path}: {body}");
    }
}
