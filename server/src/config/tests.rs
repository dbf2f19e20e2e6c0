use std::ffi::OsString;
use std::fs;

use super::layers::{Source, leaves, load, tree_of};
use super::*;

const KEY: &str = "a-key-that-nobody-guesses";
const EXAMPLE: &str = include_str!("../../duologue.example.toml");

/// The configuration out of a file, an environment and flags.
fn effective(file: &str, variables: &[(&str, &str)], flags: ConfigArgs) -> Result<Effective, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("duologue.toml");
    fs::write(&path, file).unwrap();
    let args = ConfigArgs { config: Some(path), ..flags };
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(&args, variables).map_err(|error| error.to_string())
}

fn set(assignments: &[&str]) -> ConfigArgs {
    ConfigArgs { set: assignments.iter().map(|&text| text.to_owned()).collect(), ..ConfigArgs::default() }
}

fn says(result: Result<Effective, String>, parts: &[&str]) {
    let error = result.map(|effective| effective.to_string()).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in {error:?}");
    }
    assert!(!error.contains(KEY), "{error}");
}

#[test]
fn the_example_file_holds_the_defaults_and_names_every_setting() {
    assert_eq!(toml::from_str::<ServeConfig>(EXAMPLE).unwrap(), ServeConfig::default());
    ServeConfig::default().validate().unwrap();
    let tree = tree_of(&ServeConfig::default());
    for (field, value) in leaves(&tree) {
        let name = field.rsplit('.').next().unwrap();
        let line = if value.is_null() { format!("\n# {name} = ") } else { format!("\n{name} = ") };
        assert!(EXAMPLE.contains(&line), "the example has no line for {field}");
    }
}

#[test]
fn settings_without_a_default_are_right_in_the_example_too() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = toml::from_str::<ServeConfig>(&uncommented).unwrap();
    let tree = tree_of(&config);
    let unset: Vec<_> =
        leaves(&tree).into_iter().filter(|(_, value)| value.is_null()).map(|(field, _)| field).collect();
    assert_eq!(unset, Vec::<String>::new());
}

#[test]
fn later_layers_win_and_are_named_as_the_source() {
    let file = "slots = 2\nqueue = 20\nthreads = 2\n[limits]\nidle_s = 10\nresume_s = 20\n";
    let variables = [("DUOLOGUE_QUEUE", "30"), ("DUOLOGUE_LIMITS_RESUME_S", "31"), ("DUOLOGUE_THREADS", "3")];
    let flags = ConfigArgs { threads: Some("4".to_owned()), ..set(&["limits.pause_s=41"]) };
    let found = effective(file, &variables, flags).unwrap();
    let (config, limits) = (&found.config, &found.config.limits);
    assert_eq!((config.slots, config.queue, config.threads), (2, 30, 4));
    assert_eq!((limits.idle_s, limits.resume_s, limits.pause_s, limits.session_s), (10, 31, 41, 3600));
    let source = |field: &str| found.sources.get(field).map(Source::to_string).unwrap_or_default();
    assert!(source("slots").ends_with("duologue.toml"));
    assert_eq!(source("queue"), "environment variable DUOLOGUE_QUEUE");
    assert_eq!(source("threads"), "flag --threads");
    assert_eq!(source("limits.pause_s"), "flag --set");
    assert_eq!(source("limits.session_s"), "");
}

#[test]
fn text_becomes_what_the_field_takes() {
    let variables = [
        ("DUOLOGUE_BUNDLE", "4"),
        ("DUOLOGUE_DEVICE", "cuda:1"),
        ("DUOLOGUE_TLS_MODE", "on"),
        ("DUOLOGUE_ALLOWED_ORIGINS", "https://a.example, https://b.example:444"),
        ("DUOLOGUE_TLS_NAMES", "[\"voice.example\"]"),
        ("DUOLOGUE_WEBRTC_PORTS", "{ first = 40000, last = 40099 }"),
        ("DUOLOGUE_RATES_BYTES_PER_S", "2000000"),
        ("DUOLOGUE_LOG_FORMAT", "json"),
        ("DUOLOGUE_RECORDING_ENABLED", "true"),
        ("DUOLOGUE_ORT", ""),
    ];
    let config = effective("", &variables, ConfigArgs::default()).unwrap().config;
    assert_eq!(config.bundle, Some(PathBuf::from("4")));
    assert_eq!((config.device, config.tls.mode), (DeviceChoice::Cuda(1), crate::config::parts::TlsMode::On));
    assert_eq!(config.allowed_origins, ["https://a.example", "https://b.example:444"]);
    assert_eq!(config.tls.names, ["voice.example"]);
    assert_eq!(config.webrtc.ports.map(|ports| (ports.first, ports.last)), Some((40000, 40099)));
    assert_eq!((config.rates.bytes_per_s, config.log.format), (2e6, LogFormat::Json));
    assert!(config.recording.enabled && config.ort.is_none());
}

#[test]
fn errors_name_the_layer_and_the_field() {
    let none = ConfigArgs::default;
    says(effective("slots = 4\n[limits]\nidle = 3\n", &[], none()), &["duologue.toml line 3", "limits", "idle"]);
    says(effective("slots = 4\nqueue = \"x\"\n", &[], none()), &["duologue.toml line 2", "queue", "usize"]);
    says(effective("slots = \n", &[], none()), &["duologue.toml line 1"]);
    says(effective("", &[("DUOLOGUE_SLOTS", "many")], none()), &["variable DUOLOGUE_SLOTS", "slots", "\"many\""]);
    says(effective("", &[], ConfigArgs { device: Some("gpu".into()), ..none() }), &["flag --device", "device", "gpu"]);
    says(effective("", &[], set(&["limits.idle=3"])), &["flag --set", "limits.idle", "no such setting"]);
    says(effective("", &[], set(&["slots"])), &["flag --set", "field=value"]);
    says(effective("slots = 0", &[], none()), &["duologue.toml", "slots", "1 or more"]);
    says(effective("", &[("DUOLOGUE_LIMITS_IDLE_S", "0")], none()), &["DUOLOGUE_LIMITS_IDLE_S", "limits.idle_s"]);
    says(effective("[rates]\nbyte_burst = 5.0", &[], none()), &["duologue.toml", "rates.byte_burst"]);
    says(effective("[webrtc]\nbind = []\nloopback = false", &[], none()), &["duologue.toml", "webrtc.bind"]);
    says(effective("[barge_in]\nhold_ms = 1", &[], none()), &["duologue.toml", "barge_in.hold_ms"]);
    says(effective("allowed_origins = [\"a.example\"]", &[], none()), &["allowed_origins", "a.example", "https://"]);
    says(effective("[log]\nlevel = \"a=b=c\"", &[], none()), &["duologue.toml", "log.level"]);
    says(effective("[otlp]\nqueue = 0", &[], none()), &["duologue.toml", "otlp.queue"]);
    for (endpoint, part) in [
        ("localhost:4318", "http://"),
        ("https://collector.example", "https is not spoken"),
        ("http://", "not a URL"),
        ("http://127.0.0.1:4318/v1/traces", "added by itself"),
        ("http://u:a-key-that-nobody-guesses@host:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let variable = [("DUOLOGUE_OTLP_ENDPOINT", endpoint)];
        says(effective("", &variable, none()), &["variable DUOLOGUE_OTLP_ENDPOINT", "otlp.endpoint", part, "4318"]);
    }
    says(effective("[recording]\nretention_days = -1.0", &[], none()), &["recording.retention_days"]);
    says(effective("[tls]\nkey = \"k.pem\"", &[], none()), &["tls.certificate", "tls.key"]);
    let missing = load(&ConfigArgs { config: Some("no/such.toml".into()), ..none() }, std::iter::empty()).unwrap_err();
    assert!(missing.to_string().contains("no/such.toml"), "{missing}");
}

#[test]
fn traces_stay_here_unless_a_collector_is_named() {
    let url = |endpoint: Option<&str>| {
        let config = OtlpConfig { endpoint: endpoint.map(str::to_owned), ..OtlpConfig::default() };
        config.traces_url().unwrap().map(|url| url.to_string())
    };
    assert_eq!(url(None), None);
    assert_eq!(url(Some("http://127.0.0.1:4318")).as_deref(), Some("http://127.0.0.1:4318/v1/traces"));
    assert_eq!(url(Some("http://[::1]:4318/otel/")).as_deref(), Some("http://[::1]:4318/otel/v1/traces"));
}

#[test]
fn other_machines_need_keys_and_get_tls() {
    let open = "listen = \"0.0.0.0:8998\"\n";
    says(effective(open, &[], ConfigArgs::default()), &["duologue.toml", "listen", "auth.keys", "127.0.0.1"]);
    let keys = [("DUOLOGUE_AUTH_KEYS", "phone:a-key-that-nobody-guesses")];
    let config = effective(open, &keys, ConfigArgs::default()).unwrap().config;
    assert!(!config.local());
    let names = match config.certificate().unwrap() {
        Some(CertificateSource::SelfSigned { names, .. }) => names,
        other => panic!("{other:?}"),
    };
    assert_eq!(names, ["0.0.0.0"]);
    says(effective(open, &keys, set(&["tls.mode=off"])), &["flag --set", "tls.mode", "loopback"]);
    assert_eq!(ServeConfig::default().certificate().unwrap(), None);
    let files = "[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    let config = effective(files, &[], ConfigArgs::default()).unwrap().config;
    assert!(matches!(config.certificate().unwrap(), Some(CertificateSource::Files { .. })), "also on loopback");
}

#[test]
fn keys_are_read_in_every_spelling_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let more = directory.path().join("keys");
    let hash = "0c2d3ef2b7d8fd4e15fb2bd6b1c9c0a66a0a6a5a4b3c2d1e0f00112233445566";
    fs::write(&more, format!("# ours\n\ncar:sha256:{hash}\n")).unwrap();
    let file = format!(
        "[auth]\nkeys_file = {more:?}\nkeys = [{{ name = \"phone\", key = \"{KEY}\" }}, \"web:{KEY}\", \"tv:sha256:{hash}\"]\n"
    );
    let found = effective(&file, &[], ConfigArgs::default()).unwrap();
    let keys = found.config.keys().unwrap();
    assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["phone", "web", "tv", "car"]);
    assert_eq!(keys[0].hash, duologue_transport::http::auth::hash_key(KEY));
    assert_eq!((keys[1].hash, keys[2].hash), (keys[0].hash, keys[3].hash));
    for shown in [found.to_string(), format!("{found:?}")] {
        assert!(!shown.contains(KEY) && !shown.contains(&hash[..8]), "{shown}");
    }
    assert!(found.to_string().contains("name = \"phone\""));
}

#[test]
fn bad_keys_are_refused_without_being_shown() {
    let file = |keys: &str| effective(&format!("[auth]\nkeys = {keys}\n"), &[], ConfigArgs::default());
    says(file("[{ name = \"phone\", key = \"short\" }]"), &["line 2", "auth.keys", "16", "openssl"]);
    says(file(&format!("[\"phone:{KEY} \"]")), &["auth.keys", "phone", "browsers"]);
    says(file("[\"phone:sha256:12\"]"), &["auth.keys", "64 hexadecimal digits"]);
    says(file(&format!("[{{ name = \"\", key = \"{KEY}\" }}]")), &["auth.keys", "without a name"]);
    says(file("[{ name = \"phone\" }]"), &["auth.keys", "either key or sha256"]);
    says(file(&format!("[\"a:{KEY}\", \"a:{KEY}\"]")), &["auth.keys", "two keys are named \"a\""]);
    says(file(&format!("\"a:{KEY}\"")), &["auth.keys", "wrong kind"]);
    let variable = [("DUOLOGUE_AUTH_KEYS", KEY)];
    says(effective("", &variable, ConfigArgs::default()), &["variable DUOLOGUE_AUTH_KEYS", "name:key"]);
    let turn = format!("turn:x,{KEY}");
    says(
        effective("", &[("DUOLOGUE_WEBRTC_ICE_SERVERS", &turn)], ConfigArgs::default()),
        &["webrtc.ice_servers", "urls"],
    );
    says(effective("[auth]\nkeys_file = \"no/such\"\n", &[], ConfigArgs::default()), &["auth.keys_file", "no/such"]);
}

#[test]
fn what_is_printed_can_be_read_back_and_says_where_it_came_from() {
    let file = "slots = 2\n[webrtc]\nports = { first = 40000, last = 40099 }\n\
                ice_servers = [{ urls = [\"turn:t:1\"], username = \"u\", credential = \"hide me\" }]\n\
                [barge_in]\nend_probability = 0.3\n";
    let variables = [("DUOLOGUE_LOG_LEVEL", "debug"), ("DUOLOGUE_PORT", "tcp://10.0.0.1:8998")];
    let found = effective(file, &variables, ConfigArgs::default()).unwrap();
    let text = found.to_string();
    assert!(!text.contains("hide me") && text.contains("(hidden)"), "{text}");
    assert_eq!(found.ignored, ["DUOLOGUE_PORT"]);
    let line =
        |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {text}"));
    assert!(line("slots = 2").ends_with("duologue.toml"));
    assert!(line("level = \"debug\"").ends_with("# environment variable DUOLOGUE_LOG_LEVEL"));
    assert!(line("queue = 100").ends_with("# default"));
    assert!(line("end_probability = 0.3 ").ends_with("duologue.toml"));
    assert!(line("# environment variable DUOLOGUE_PORT").contains("ignored"));
    line("# bundle is not set");
    let mut again: ServeConfig = toml::from_str(&text).unwrap();
    again.webrtc.ice_servers.clone_from(&found.config.webrtc.ice_servers);
    assert_eq!(again, found.config);
}
