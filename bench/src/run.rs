//! Runs a scenario: every load, every run, all sessions of a load at the same time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duologue_proto::live::{BargeIn, BargeInMode, BundleInfo, SamplingOverrides, SessionConfig, SessionExtension};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::client::Target;
use crate::conversation::{Camera, Conversation, converse};
use crate::error::BenchError;
use crate::measure::{Place, Rows, UsageRow};
use crate::resources::{INTERVAL, Meter};
use crate::scenario::{Load, Scenario};
use crate::user::Speaker;

/// Sessions of a closed loop begin within this time, so that their units do not end together.
const STAGGER: Duration = Duration::from_secs(1);
/// A conversation that takes so much longer than its script, places in the queue included, has a server that hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a scenario came to.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that was measured.
    pub rows: Rows,
    /// The model, as the server named it.
    pub bundle: Option<BundleInfo>,
}

/// A bar on standard error that knows how long a scenario takes; nothing where that is no terminal.
pub fn progress(scenario: &Scenario, target: &Target, runs: usize) -> ProgressBar {
    let conversation = scenario.seconds() + STAGGER.as_secs_f64();
    let load = |load: Load| match load {
        Load::Sessions(_) => conversation,
        Load::ArrivalsPerMinute(_) => scenario.arrivals().as_secs_f64() + conversation,
    };
    let seconds = scenario.file.warm_up_s + runs as f64 * scenario.loads().into_iter().map(load).sum::<f64>();
    let style = ProgressStyle::with_template("{prefix} {bar:30} {elapsed} of at most {len} s  {msg}");
    let bar = ProgressBar::new(seconds.ceil() as u64);
    bar.set_style(style.expect("the template is valid. This is a bug."));
    bar.set_prefix(format!("{} ({})", scenario.name, target.transport));
    bar
}

/// Says all of a scenario, `runs` times.
///
/// # Errors
/// When not one session could be held; single ones that fail are counted.
pub async fn run(
    scenario: &Arc<Scenario>,
    target: &Target,
    runs: usize,
    bar: &ProgressBar,
) -> Result<Outcome, BenchError> {
    if scenario.file.warm_up_s > 0.0 {
        bar.set_message("warming up");
        let place = Place { load: Load::Sessions(1), run: 0, session: 0 };
        let limit = Duration::from_secs_f64(scenario.file.warm_up_s);
        talk(Arc::clone(scenario), target.clone(), place, Some(limit)).await?;
        bar.inc(scenario.file.warm_up_s as u64);
    }
    let mut outcome = Outcome { rows: Rows::default(), bundle: None };
    let mut first_error = None;
    for run in 0..runs {
        for load in scenario.loads() {
            bar.set_message(format!("run {} of {runs}, {load}", run + 1));
            let watched = Watch::begin(load, run, bar);
            let sessions = all_sessions(scenario, target, load, run).await;
            outcome.rows.usage.extend(watched.end());
            for (place, ended) in sessions {
                match ended {
                    Ok(conversation) => {
                        outcome.rows.add(place, &conversation);
                        let told = conversation.started.session.duologue;
                        outcome.bundle = outcome.bundle.or(told.map(|extension| extension.bundle));
                    }
                    Err(error) => {
                        let refused = matches!(error, BenchError::Refused { .. });
                        outcome.rows.add_failed(place, error.to_string(), refused);
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
    }
    match first_error {
        Some(error) if outcome.bundle.is_none() => Err(error),
        _ => Ok(outcome),
    }
}

type Ended = (Place, Result<Conversation, BenchError>);

/// Holds all sessions of a load, and waits for the last one.
async fn all_sessions(scenario: &Arc<Scenario>, target: &Target, load: Load, run: usize) -> Vec<Ended> {
    let mut random = ChaCha8Rng::seed_from_u64(scenario.file.seed.wrapping_add(run as u64));
    let began = Instant::now();
    let mut sessions = JoinSet::new();
    for (session, begins) in beginnings(scenario, load, &mut random).into_iter().enumerate() {
        let (scenario, target) = (Arc::clone(scenario), target.clone());
        let place = Place { load, run, session };
        sessions.spawn(async move {
            sleep_until((began + begins).into()).await;
            (place, talk(scenario, target, place, None).await)
        });
    }
    let mut ended = sessions.join_all().await;
    ended.sort_by_key(|(place, _)| place.session);
    ended
}

/// When each session begins.
fn beginnings(scenario: &Scenario, load: Load, random: &mut impl Rng) -> Vec<Duration> {
    match load {
        Load::Sessions(1) => vec![Duration::ZERO],
        Load::Sessions(count) => (0..count).map(|_| STAGGER.mul_f64(random.random())).collect(),
        Load::ArrivalsPerMinute(rate) => {
            let mut at = 0.0;
            let next = || {
                // An exponential time: 1 - random is never 0.
                at -= (1.0 - random.random::<f64>()).ln() * 60.0 / rate;
                (at < scenario.arrivals().as_secs_f64()).then(|| Duration::from_secs_f64(at))
            };
            std::iter::from_fn(next).collect()
        }
    }
}

async fn talk(
    scenario: Arc<Scenario>,
    target: Target,
    place: Place,
    limit: Option<Duration>,
) -> Result<Conversation, BenchError> {
    // Two sessions draw alike only when they are the same session of the same run.
    let number = ((place.run as u64) << 32) | place.session as u64;
    let mut random = ChaCha8Rng::seed_from_u64(scenario.file.seed);
    random.set_stream(number);
    let mut speaker = Speaker::new(&scenario, &mut random);
    let script = Duration::from_secs_f64(scenario.seconds());
    if matches!(place.load, Load::Sessions(count) if count > 1) {
        // So many at once until the last one is done.
        speaker = speaker.staying(script);
    }
    let session = wishes(&scenario, scenario.file.seed.wrapping_add(number));
    let every = scenario.file.camera.as_ref().map_or(Duration::ZERO, |camera| Duration::from_secs_f64(camera.every_s));
    let camera = scenario.picture.as_ref().map(|picture| Camera { picture, every });
    let late = |_| BenchError::session("talking", format!("not over after {} s", (script + PATIENCE).as_secs()));
    timeout(script + PATIENCE, converse(&target, session, speaker, scenario.file.phone, camera, limit))
        .await
        .map_err(late)?
}

fn wishes(scenario: &Scenario, seed: u64) -> SessionConfig {
    let wishes = &scenario.file.session;
    // What a client in JavaScript could say as well.
    let seed = Some(seed % (1 << 53));
    let sampling = SamplingOverrides { greedy: wishes.greedy.then_some(true), seed, ..SamplingOverrides::default() };
    SessionConfig {
        instructions: wishes.instructions.clone(),
        duologue: Some(SessionExtension {
            sampling: Some(sampling),
            // A voice would stop what a schedule forces.
            barge_in: wishes.schedule.map(|_| BargeIn { mode: BargeInMode::Model }),
            forced_schedule: wishes.schedule,
            ..SessionExtension::default()
        }),
        ..SessionConfig::default()
    }
}

/// Looks at the process while sessions run, and moves the bar on.
struct Watch {
    rows: Arc<Mutex<Vec<UsageRow>>>,
    task: tokio::task::JoinHandle<()>,
    bar_task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn begin(load: Load, run: usize, bar: &ProgressBar) -> Self {
        let rows: Arc<Mutex<Vec<UsageRow>>> = Arc::default();
        let seen = Arc::clone(&rows);
        let task = tokio::spawn(async move {
            let mut meter = Meter::default();
            let mut looks = interval(INTERVAL);
            // Two looks at once would divide by nothing.
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                // A GPU is asked by a program, which takes its time.
                let looked = spawn_blocking(move || (meter.look(), meter)).await;
                let Ok((Some(usage), next)) = looked else { return };
                meter = next;
                seen.lock().expect("nobody panics with it").push(UsageRow { load, run, usage });
            }
        });
        let bar = bar.clone();
        let bar_task = tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                bar.inc(1);
            }
        });
        Self { rows, task, bar_task }
    }

    fn end(self) -> Vec<UsageRow> {
        self.task.abort();
        self.bar_task.abort();
        std::mem::take(&mut *self.rows.lock().expect("nobody panics with it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ScenarioFile;

    fn scenario(load: &str) -> Scenario {
        let file = ScenarioFile::parse(&format!("about = \"x\"\n{load}\n[[user]]\nquiet_s = 1.0\n")).unwrap();
        Scenario { name: "x".into(), file, lines: vec![None], picture: None }
    }

    #[test]
    fn arrivals_come_at_their_rate_and_repeat_with_the_seed() {
        let scenario = scenario("[load]\narrivals_per_minute = 60.0\narrivals_s = 600.0");
        let draw = |seed| beginnings(&scenario, scenario.loads()[0], &mut ChaCha8Rng::seed_from_u64(seed));
        let times = draw(1);
        assert!((500..700).contains(&times.len()), "{} arrivals in ten minutes", times.len());
        assert!(times.is_sorted() && times.last().unwrap() < &Duration::from_secs(600));
        assert_eq!((draw(1) == times, draw(2) == times), (true, false));
    }

    #[test]
    fn sessions_of_a_closed_loop_begin_within_a_second() {
        let scenario = scenario("[load]\nsessions = [1, 8]");
        let [one, eight] = scenario.loads()[..] else { panic!("two loads") };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(beginnings(&scenario, one, &mut random), [Duration::ZERO]);
        let times = beginnings(&scenario, eight, &mut random);
        assert!(times.len() == 8 && times.iter().all(|time| *time < STAGGER));
    }
}
