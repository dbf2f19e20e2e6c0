//! Traces over OTLP/HTTP, when `otlp.endpoint` names a collector.
//!
//! Takes the spans of [`spans`] and nothing else, so that no line of the log can slip into what leaves this machine. A
//! thread of the SDK sends them; finished spans wait for it in a queue, and when that is full, newer ones are dropped and
//! counted. No session waits for a collector.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::config::OtlpConfig;
use duologue_transport::driver::spans;

/// How long the collector may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the server stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Between two log lines about a collector that takes nothing.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The way out for spans.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to export, with connections made on `runtime`; `None` when it is not configured.
    ///
    /// # Errors
    /// Settings, or variables of OpenTelemetry, that the SDK does not take.
    pub fn start(config: &OtlpConfig, runtime: &Handle) -> Result<Option<Self>> {
        let url = config.traces_url().map_err(|problem| anyhow::anyhow!("{}: {}", problem.field, problem.reason))?;
        let Some(url) = url else { return Ok(None) };
        let client =
            OnRuntime { client: HyperClient::with_default_connector(ANSWER_TIMEOUT, None), runtime: runtime.clone() };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(client)
            .with_endpoint(url.to_string())
            .with_timeout(ANSWER_TIMEOUT)
            .build()
            .context("otlp")?;
        let queue = BatchConfigBuilder::default().with_max_queue_size(config.queue).build();
        let processor = BatchSpanProcessor::builder(Patient::new(exporter)).with_batch_config(queue).build();
        let resource = Resource::builder()
            .with_service_name(env!("CARGO_PKG_NAME"))
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build();
        tracing::debug!(%url, "traces are exported");
        Ok(Some(Self { provider }))
    }

    /// Takes our spans and hands them to the exporter.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(LevelFilter::TRACE.and(filter_fn(|item| item.is_span() && item.target() == spans::TARGET)))
    }

    /// Sends what still waits, for a short while.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_LIMIT) {
            tracing::warn!(%error, "the last traces did not reach the collector");
        }
    }
}

/// The SDK exports from a thread that knows no tokio; the client works on one that does.
#[derive(Debug)]
struct OnRuntime {
    client: HyperClient,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// Says of a collector that takes nothing once in a while, not with every batch, and lets those batches go.
#[derive(Debug)]
struct Patient<E> {
    exporter: E,
    lost: Mutex<Lost>,
}

/// Spans that were lost since the last line about it.
#[derive(Debug, Default)]
struct Lost {
    spans: usize,
    told: Option<Instant>,
}

impl<E> Patient<E> {
    fn new(exporter: E) -> Self {
        Self { exporter, lost: Mutex::default() }
    }

    /// Counts a lost batch; the spans to tell of, when it is time to.
    fn count(&self, spans: usize, now: Instant) -> Option<usize> {
        let mut lost = self.lost.lock().expect("no code panics with the count locked. This is a bug.");
        lost.spans += spans;
        if lost.told.is_some_and(|told| now < told + COMPLAINT_INTERVAL) {
            return None;
        }
        lost.told = Some(now);
        Some(std::mem::take(&mut lost.spans))
    }
}

impl<E: SpanExporter> SpanExporter for Patient<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        if let Err(error) = self.exporter.export(batch).await
            && let Some(spans) = self.count(spans, Instant::now())
        {
            tracing::warn!(%error, spans, "the collector takes no traces; these spans are lost");
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_is_away_is_told_of_once_a_minute() {
        let patient = Patient::new(());
        let began = Instant::now();
        assert_eq!(patient.count(3, began), Some(3));
        assert_eq!(patient.count(4, began + Duration::from_secs(5)), None);
        assert_eq!(patient.count(5, began + Duration::from_secs(59)), None);
        assert_eq!(patient.count(6, began + COMPLAINT_INTERVAL), Some(15));
    }
}
