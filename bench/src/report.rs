//! What a bench leaves: rows, figures and verdicts with their environment; as a table, as JSON, as a page.

mod charts;
mod html;
mod json;
mod plot;
mod table;

use duologue_proto::forced_schedule::ForcedSchedule;
use serde::{Deserialize, Serialize};

pub use html::html;
pub use json::{read, write};
pub use table::table;

use crate::client::Transport;
use crate::environment::Environment;
use crate::gates::Verdict;
use crate::measure::Rows;
use crate::metric::Metric;
use crate::scenario::{Load, Scenario, ScenarioFile};
use crate::statistics::Summary;

/// Number of the JSON form; another one is refused.
pub const FORM: u32 = 2;

/// Clients that are later than a packet by their own fault spoil what they measure.
const CLIENT_LATE_MS: f64 = 20.0;

/// Everything of one call of `duologue bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORM`].
    pub form: u32,
    /// What must be known before a figure is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Where it was measured.
    pub environment: Environment,
    /// One for each scenario and transport.
    pub results: Vec<ScenarioResult>,
}

/// What a scenario came to over a transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Name of the scenario.
    pub name: String,
    /// The scenario itself.
    pub scenario: ScenarioFile,
    /// The way to the server.
    pub transport: Transport,
    /// Runs that were made.
    pub runs: usize,
    /// The loads, in order.
    pub loads: Vec<Load>,
    /// Figures of every metric that has values, for every load.
    pub figures: Vec<Figure>,
    /// What became of the gates.
    pub verdicts: Vec<Verdict>,
    /// Everything that was measured.
    pub rows: Rows,
}

/// A metric under a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which.
    pub metric: Metric,
    /// Under which load.
    pub load: Load,
    /// In numbers.
    pub summary: Summary,
    /// Of what is computing: all its time by all the audio it covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtf: Option<f64>,
}

impl ScenarioResult {
    /// Figures and verdicts of rows.
    pub fn new(scenario: &Scenario, transport: Transport, runs: usize, rows: Rows) -> Self {
        let loads = scenario.loads();
        let every = |&load: &Load| Metric::ALL.iter().map(move |&metric| (metric, load));
        let figure = |(metric, load): (Metric, Load)| {
            let summary = Summary::of(&metric.samples(&rows, load))?;
            Some(Figure { metric, load, summary, rtf: metric.rtf(&rows, load) })
        };
        let figures = loads.iter().flat_map(every).filter_map(figure).collect();
        let gates = scenario.file.gates.iter();
        let verdicts = gates
            .flat_map(|gate| loads.iter().filter(|load| gate.applies(**load)).map(move |load| (gate, *load)))
            .map(|(gate, load)| gate.judge(load, &gate.metric.samples(&rows, load)))
            .collect();
        let (name, scenario) = (scenario.name.clone(), scenario.file.clone());
        Self { name, scenario, transport, runs, loads, figures, verdicts, rows }
    }

    /// A metric's figure under a load.
    pub fn figure(&self, metric: Metric, load: Load) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.metric == metric && figure.load == load)
    }
}

impl Report {
    /// A report without results.
    pub fn new(environment: Environment) -> Self {
        Self { form: FORM, notices: vec![], environment, results: vec![] }
    }

    /// Adds a result and what must be known of it.
    pub fn add(&mut self, result: ScenarioResult) {
        let place = format!("{} over {}", result.name, result.transport);
        if let Some(ForcedSchedule { listen, speak, tokens, codes }) = result.scenario.session.schedule {
            let schedule = format!("listen={listen},speak={speak},tokens={tokens},codes={codes}");
            let notice = format!(
                "forced schedule {schedule} in {place}: the model speaks when it is told to, not when it chooses"
            );
            self.notices.push(notice);
        }
        let late = Metric::ClientLate;
        let latest = result.loads.iter().filter_map(|&load| result.figure(late, load)).map(|figure| figure.summary.max);
        if let Some(latest) = latest.reduce(f64::max).filter(|latest| *latest > CLIENT_LATE_MS) {
            let notice =
                format!("{place}: clients were up to {latest:.0} ms late themselves, so this machine was measured too");
            self.notices.push(notice);
        }
        self.results.push(result);
    }

    /// A line for every gate that does not hold.
    pub fn broken_gates(&self) -> Vec<String> {
        let of = |result: &ScenarioResult| {
            let place = format!("{} over {}", result.name, result.transport);
            let broken = result.verdicts.iter().filter(|verdict| !verdict.holds);
            broken.map(|verdict| format!("gate broken: {place}: {verdict}")).collect::<Vec<_>>()
        };
        self.results.iter().flat_map(of).collect()
    }
}
