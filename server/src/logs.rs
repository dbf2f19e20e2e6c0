//! Where log lines go and what they look like.
//!
//! What is logged never holds what people say nor any key; at info level a session leaves its beginning, its end and how
//! it ended.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat};
use crate::traces::Traces;

/// Logs of a command: `RUST_LOG`, else errors only, as text.
pub fn init_command() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// Logs of the server, as configured, and its traces, if it has any.
///
/// # Panics
/// If logs were begun before, or the level was not checked.
pub fn init_server(config: &LogConfig, traces: Option<&Traces>) {
    let subscriber = Registry::default().with(lines(config, io::stderr)).with(traces.map(Traces::layer));
    tracing::subscriber::set_global_default(subscriber).expect("logs are begun once. This is a bug.");
}

/// The lines of the log. They have a filter of their own: what is traced is no matter of the level.
fn lines<S, W>(config: &LogConfig, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::try_new(&config.level).expect("the level was checked with the configuration. This is a bug.");
    let lines = fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use duologue_transport::driver::spans::TARGET;
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &LogConfig) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = Registry::default().with(lines(config, move || writer.clone())).with(None::<LevelFilter>);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(session = "sess_1", units = 3, "session over");
            tracing::debug!("details");
            assert!(!tracing::enabled!(target: TARGET, tracing::Level::TRACE), "a span that nobody takes");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_holds_its_fields_side_by_side() {
        let text = logged(&LogConfig { format: LogFormat::Json, ..LogConfig::default() });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "debug is below the default level: {text}");
        assert_eq!((&lines[0]["message"], &lines[0]["units"]), (&"session over".into(), &3.into()));
        assert_eq!(lines[0]["level"], "INFO");
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn the_level_can_be_set_by_module() {
        let config = LogConfig { level: "error,duologue=debug".to_owned(), ..LogConfig::default() };
        let text = logged(&config);
        assert!(text.contains("details") && text.contains("session over"), "{text}");
        assert_eq!(logged(&LogConfig { level: "error".to_owned(), ..LogConfig::default() }), "");
    }
}
