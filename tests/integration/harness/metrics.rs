//! Metrics as a scraper reads them.

use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Debug)]
pub(crate) struct Metrics {
    text: String,
    samples: Vec<(String, Labels, f64)>,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_sample).collect();
        Self { text: text.to_owned(), samples }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The sum of all samples that bear at least these labels; none if there is no such sample.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |of: &Labels| labels.iter().all(|(k, v)| of.get(*k).is_some_and(|own| own == v));
        let mut found =
            self.samples.iter().filter(|(n, l, _)| n == name && fits(l)).map(|(_, _, v)| *v).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// The same; fails, showing the family, if there is none.
    #[track_caller]
    pub(crate) fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| {
            let family: Vec<_> = self.text.lines().filter(|line| line.contains(name)).collect();
            panic!("no sample {name}{labels:?}; its family:\n{}", family.join("\n"))
        })
    }

    /// All values that a label takes in a family.
    pub(crate) fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> = self
            .samples
            .iter()
            .filter(|(n, _, _)| n == name)
            .filter_map(|(_, labels, _)| labels.get(label).cloned())
            .collect();
        values.sort();
        values.dedup();
        values
    }
}

fn parse_sample(line: &str) -> Option<(String, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), Labels::new(), value));
    };
    let labels = labels
        .trim_end_matches('}')
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect();
    Some((name.to_owned(), labels, value))
}
