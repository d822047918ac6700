//! A parser of the Prometheus text format (version 0.0.4), as a daemon or an aggregator serves it.

/// A sample: `name{label="value",…} value [timestamp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    /// Name of the metric.
    pub name: &'a str,
    /// Labels, sorted by name.
    pub labels: Vec<(&'a str, String)>,
    /// Text of the value, which may not be a number.
    pub value: &'a str,
}

/// Returns the samples of a text and skips all other lines.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = identifier(line.trim_start_matches(BLANKS))?;
    let (mut labels, rest) = match rest.trim_start_matches(BLANKS).strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None if rest.starts_with(BLANKS) => (Vec::new(), rest),
        None => return None,
    };
    labels.sort_unstable();
    let mut words = rest.split(BLANKS).filter(|word| !word.is_empty());
    let value = words.next()?;
    let timestamp = words.next().filter(|word| *word != EXEMPLAR);
    let is_whole = timestamp.is_none_or(|timestamp| timestamp.parse::<f64>().is_ok())
        && (timestamp.is_none() || words.next().is_none_or(|word| word == EXEMPLAR));
    is_whole.then_some(Sample {
        name,
        labels,
        value,
    })
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Start of an exemplar, which follows value and timestamp in `OpenMetrics`.
const EXEMPLAR: &str = "#";

/// Splits off the name of a metric or a label.
fn identifier(text: &str) -> Option<(&str, &str)> {
    let belongs = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Splits off the labels and the closing brace.
fn labels(mut text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches(BLANKS);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = identifier(text)?;
        let rest = rest.trim_start_matches(BLANKS).strip_prefix('=')?;
        let (value, rest) = quoted(rest.trim_start_matches(BLANKS).strip_prefix('"')?)?;
        labels.push((name, value));
        text = rest.trim_start_matches(BLANKS);
        // A comma may also follow the last label.
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None if text.starts_with('}') => {}
            None => return None,
        }
    }
}

/// Splits off a label's value and the closing quotation mark.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (end, '"') => return Some((value, &text[end + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_parse_with_and_without_labels_and_timestamps() {
        let label = |name, value: &str| (name, value.to_owned());
        for (line, labels) in [
            ("a_total 7", vec![]),
            (" a_total\t7 ", vec![]),
            ("a_total 7 1700000000000", vec![]),
            ("a_total 7 -1", vec![]),
            ("a_total 7 # {trace=\"x\"} 1", vec![]),
            ("a_total 7 1.5 # {trace=\"x\"} 1", vec![]),
            ("a_total{} 7", vec![]),
            ("a_total {b=\"c d\"} 7 12", vec![label("b", "c d")]),
            (
                r#"a_total{z="}\"\\\n,", b = "=" , } 7"#,
                vec![label("b", "="), label("z", "}\"\\\n,")],
            ),
        ] {
            let expected = Sample {
                name: "a_total",
                labels,
                value: "7",
            };
            assert_eq!(sample(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn lines_that_are_no_samples_are_skipped() {
        for line in [
            "",
            "# HELP a_total 7",
            "a_total",
            "a_total ",
            "a_total 7 8 9",
            "a_total 7 soon",
            "a_total{b=\"c} 7",
            "a_total{b=\"c\" d=\"e\"} 7",
            "a_total{b=c} 7",
            "a_total{b=\"c\"",
            "{b=\"c\"} 7",
            "a-total 7",
        ] {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn sample_parser_accepts_any_text(line in "[a_ \t{}=\"\\\\,#0-9]{0,40}|.*") {
            let _ = sample(&line);
        }
    }
}
