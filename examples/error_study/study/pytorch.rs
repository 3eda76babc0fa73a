//! The errors of PyTorch's CPU kernels on the same inputs, as `pytorch.py` has written them down.

use std::collections::HashMap;

use super::{Case, Data, Errors, Quantity};

/// What a line of the file is of.
type Key = (String, String, String, u32, u32);

/// Figures of another implementation.
pub struct Peers {
    /// What ran where, from the head of the file.
    pub provenance: String,
    errors: HashMap<Key, (u64, Errors)>,
}

fn key(case: &Case) -> Key {
    let names = [case.element_name(), case.arrangement_name(), case.variant_name()].map(str::to_owned);
    let [element, arrangement, variant] = names;
    (element, arrangement, variant, case.decade(), case.length_log2)
}

impl Peers {
    /// Lines `element,arrangement,variant,log10 ratio,log2 length,digest,…` with an error for each quantity, empty where there is none;
    /// before them comments, after `#`, and a line of titles.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (comments, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
        let mut errors = HashMap::new();
        for line in lines.into_iter().skip(1) {
            let bad = || format!("not a line of figures: {line}");
            let fields: Vec<&str> = line.split(',').collect();
            let [element, arrangement, variant, ratio, length, digest, values @ ..] = &fields[..] else {
                return Err(bad());
            };
            if values.len() != Quantity::ALL.len() {
                return Err(bad());
            }
            let mut row = Errors::default();
            for (quantity, value) in Quantity::ALL.into_iter().zip(values).filter(|(_, value)| !value.is_empty()) {
                row.set(quantity, value.parse().map_err(|_| bad())?);
            }
            let [ratio, length] = [ratio, length].map(|value| value.parse::<u32>());
            let (ratio, length) = (ratio.map_err(|_| bad())?, length.map_err(|_| bad())?);
            let digest = u64::from_str_radix(digest, 16).map_err(|_| bad())?;
            let names = [element, arrangement, variant].map(|name| (*name).to_owned());
            let [element, arrangement, variant] = names;
            errors.insert((element, arrangement, variant, ratio, length), (digest, row));
        }
        let provenance: Vec<&str> = comments.iter().map(|line| line.trim_start_matches(['#', ' '])).collect();
        Ok(Self { provenance: provenance.join("\n"), errors })
    }

    /// The figures for a case, if there are any.
    pub fn get(&self, case: &Case) -> Option<&Errors> {
        self.errors.get(&key(&case.peer())).map(|(_, errors)| errors)
    }

    /// Whether the figures for a case are of these inputs.
    pub fn are_of(&self, case: &Case, data: &Data) -> bool {
        self.errors.get(&key(&case.peer())).is_some_and(|(digest, _)| *digest == data.digest())
    }
}
