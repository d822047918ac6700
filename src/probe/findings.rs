//! The sentences of the summary. Each one has its evidence: a count that can have no other reason,
//! or it names every reason.

use super::config::Config;
use super::finished::{Finished, Losses};
use super::format::{Percent, Seconds, counted};
use super::notes::DeliveryError;
use super::prober::Outcome;
use super::tally::Flow;
use crate::reflect::Mode;

/// A sentence of the summary.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The sentence.
    pub sentence: String,
    /// Rows of a table below it.
    pub rows: Vec<String>,
}

/// Maximum number of flows with a row each. With more, those without loss share one row.
const FLOWS: usize = 32;

/// Returns the findings of a run.
pub(super) fn of(finished: &Finished<'_>) -> Vec<Finding> {
    let Finished {
        config, outcome, ..
    } = finished;
    let mut findings = Vec::from_iter(uneven_flows(outcome));
    let sentences = [
        errors(finished),
        replies(outcome),
        mode(config, outcome),
        finished
            .directions()
            .map_or_else(Vec::new, |directions| directions.sentences()),
        not_sent(config, outcome),
        place_of_loss(finished),
    ];
    findings.extend(sentences.into_iter().flatten().map(|sentence| Finding {
        sentence,
        rows: Vec::new(),
    }));
    findings
}

/// Compares the flows. Returns a row for each if only some lose requests, and more than by chance,
/// as on a broken path of several.
fn uneven_flows(outcome: &Outcome) -> Option<Finding> {
    let loses = |flow: &Flow| flow.received < flow.sent;
    let flows = outcome.tally.flows();
    let clean = flows.iter().filter(|flow| !loses(flow) && flow.sent > 0);
    let clean = clean.count();
    if clean == 0 || !some_flow_loses_more(flows) {
        return None;
    }
    let all = flows.len() <= FLOWS;
    let mut rows = Vec::new();
    for (index, (flow, port)) in flows.iter().zip(&outcome.ports).enumerate() {
        if loses(flow) || (all && flow.sent > 0) {
            let (number, sent, lost) = (index + 1, flow.sent, flow.sent - flow.received);
            let percent = Percent(lost, sent);
            rows.push(format!(
                "flow {number}, from port {port}: {sent} sent, {lost} lost ({percent})"
            ));
        }
    }
    if !all {
        rows.push(format!("the other {clean} flows lost none"));
    }
    Some(Finding {
        sentence: "some flows lose requests, others do not".into(),
        rows,
    })
}

/// Whether a flow lost more requests than is likely if all flows lost the same share: the Chernoff
/// bound of the binomial distribution is below 1% for all flows together.
#[expect(clippy::cast_precision_loss, reason = "ratios")]
fn some_flow_loses_more(flows: &[Flow]) -> bool {
    const CHANCE: f64 = 0.01;
    let sum = |count: fn(&Flow) -> u64| flows.iter().map(count).sum::<u64>() as f64;
    let (sent, received) = (sum(|flow| flow.sent), sum(|flow| flow.received));
    let expected = 1.0 - received / sent;
    let needed = (flows.len() as f64 / CHANCE).ln();
    flows.iter().filter(|flow| flow.sent > 0).any(|flow| {
        let share = 1.0 - flow.received as f64 / flow.sent as f64;
        let term = |share: f64, expected: f64| match share {
            0.0 => 0.0,
            share => share * (share / expected).ln(),
        };
        let divergence = term(share, expected) + term(1.0 - share, 1.0 - expected);
        share > expected && flow.sent as f64 * divergence > needed
    })
}

fn errors(finished: &Finished<'_>) -> Vec<String> {
    let notes = &finished.outcome.notes;
    let mut sentences = Vec::new();
    for (error, count) in notes.errors.kinds() {
        let requests = counted(count, "request");
        sentences.push(format!("{requests}: {}", error.explain(finished.target)));
    }
    let other = notes.errors.other();
    if other > 0 {
        let requests = counted(other, "request");
        sentences.push(format!("{requests}: other errors"));
    }
    for (errno, count) in &notes.unsent_records {
        let error = DeliveryError::Unsent(*errno).explain(finished.target);
        sentences.push(format!("{}: {error}", counted(*count, "record")));
    }
    sentences
}

/// Findings about replies that are unusual.
fn replies(outcome: &Outcome) -> Vec<String> {
    let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
    let mut sentences = Vec::new();
    // STAMP has a sentence of its own.
    if let (Some((shortest, longest)), None) = (notes.truncated, &outcome.stamp) {
        // A limit cuts all replies to the same length.
        let is_limit = shortest == longest && notes.whole_replies == 0;
        sentences.push(if is_limit {
            format!("replies are truncated to {longest} bytes: see --max-datagram of the daemon")
        } else {
            format!("some replies are truncated, to {shortest} to {longest} bytes")
        });
    }
    if notes.foreign > 0 {
        let count = notes.foreign;
        let action = match (totals.received, &outcome.stamp) {
            (0, None) => "; check that the target is an echo server",
            (0, Some(_)) => "; check that the target is a STAMP reflector",
            _ => "",
        };
        sentences.push(format!("datagrams that are not replies: {count}{action}"));
    }
    if totals.too_late > 0 {
        let count = totals.too_late;
        // Without loss they are duplicates.
        let text = match totals.lost() {
            0 => format!("late duplicates: {count}"),
            _ => {
                format!("replies too late to match their requests: {count}; use a longer --wait")
            }
        };
        sentences.push(text);
    }
    if notes.address_changes > 0 {
        let count = notes.address_changes;
        let effect = "requests in flight at a change can be lost";
        sentences.push(format!(
            "changes of this host's own address: {count}; {effect}"
        ));
    }
    if outcome.own_drops > 0 {
        let count = outcome.own_drops;
        let why = "its receive buffer was full, or their checksum was wrong";
        sentences.push(format!("replies dropped by this host: {count}; {why}"));
    }
    sentences
}

/// Findings about a wrong `--mode`.
fn mode(config: &Config, outcome: &Outcome) -> Vec<String> {
    let records = outcome.echoed_records;
    if outcome.is_plain {
        return vec!["the reflector echoes records, too: use --mode echo".into()];
    }
    if records > 0 {
        return vec![format!(
            "records echoed: {records}; for a plain reflector use --mode echo (a daemon echoes a \
             record after its --timeout or after a duplicated request)"
        )];
    }
    let [alternating, others] = outcome.tally.alternation();
    let alternates = alternating >= 2 && others * 10 <= alternating;
    if config.mode != Mode::Echo || !alternates {
        return Vec::new();
    }
    let action = "for a daemon in exchange mode use --mode exchange";
    vec![format!("every second request is lost: {action}")]
}

fn not_sent(config: &Config, outcome: &Outcome) -> Vec<String> {
    let missed = outcome.missed;
    // A flow whose reply is lost waits for the whole --wait: more flows would not help much.
    let waiting = match (config.mode, outcome.tally.totals().lost()) {
        (Mode::Lockstep, _) => "the previous request still waited for its reply".into(),
        (_, 0) => "every flow still waited for a reply, use more --flows".into(),
        _ => "every flow still waited for a reply".to_owned(),
    };
    let stall = Seconds(missed.longest_stall);
    let stalled = format!("this process was stopped or blocked for up to {stall} s");
    let slow = "this host was too slow, use a lower --rate".to_owned();
    let reasons = [
        (missed.waiting, waiting),
        (missed.stalled, stalled),
        (missed.slow, slow),
    ];
    reasons
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("requests due but not sent: {count}; {why}"))
        .collect()
}

fn place_of_loss(finished: &Finished<'_>) -> Vec<String> {
    let totals = finished.outcome.tally.totals();
    let attribution = match finished.losses.filter(|_| totals.lost() > 0) {
        None => return Vec::new(),
        Some(Losses::DaemonRestarted) => {
            let why =
                "the daemon restarted during the run, or these are the metrics of another one";
            return vec![format!("place of loss unknown: {why}")];
        }
        Some(Losses::Unknown(why)) => return vec![format!("place of loss unknown: {why}")],
        Some(Losses::Located(attribution)) => attribution,
    };
    let mut places = format!(
        "place of loss, by the daemon's metrics: {} on the way there, {} dropped by its host, \
         {} refused by it, {} on the way back",
        attribution.uplink,
        attribution.server_drops,
        attribution.server_refused,
        attribution.downlink,
    );
    let mut rest = totals.lost().saturating_sub(attribution.located());
    for (count, text) in [
        (totals.damaged, "with damaged replies"),
        (totals.too_late, "with late replies"),
        (attribution.decoded, "decoded as records"),
        (u64::MAX, "in an unknown place"),
    ] {
        let count = count.min(rest);
        rest -= count;
        if count > 0 {
            places.extend([", ", &count.to_string(), " ", text]);
        }
    }
    let mut sentences = vec![places];
    if attribution.unsent > 0 {
        let action = "check the firewall and the routes of its host";
        let datagrams = counted(attribution.unsent, "datagram");
        sentences.push(format!("the daemon failed to send {datagrams}: {action}"));
    }
    if attribution.of_others > 0 {
        sentences.push(format!(
            "these figures are not exact: the daemon also received {}, from other clients or \
             duplicated by the network",
            counted(attribution.of_others, "further datagram"),
        ));
    }
    sentences
}

#[cfg(test)]
mod tests;
