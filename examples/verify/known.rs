//! Failures that are a driver's right or a driver's bug, each tied to a probe of the adapter and to the tensors that it
//! touches.
//!
//! A case with a record has to fail, and in these tensors only: one that passes says that the record is out of date.

use crate::compare::Comparison;
use crate::probe::Traits;
use crate::report::Status;

struct Known {
    case: &'static str,
    /// Whether it fails on an adapter.
    applies: fn(Traits) -> bool,
    /// The expected tensors that it touches, however they are computed.
    tensors: &'static [&'static str],
    reason: &'static str,
}

const KNOWN: [Known; 1] = [Known {
    case: "adv.subnormal_x",
    applies: |traits| traits.flushes_subnormals,
    // dgamma is a sum of products of dy and what is left of x − mean; y and dx are within their tolerance without it.
    tensors: &["dweight"],
    reason: "the adapter flushes subnormal operands to zero, as WGSL allows",
}];

/// The verdict on a case on a device, in the light of what is known of adapters like it.
pub fn revise(traits: Traits, case: &str, status: Status, reason: String, results: &[Comparison]) -> (Status, String) {
    let Some(known) = KNOWN.iter().find(|known| known.case == case && (known.applies)(traits)) else {
        return (status, reason);
    };
    let named = |tensor: &str| {
        known
            .tensors
            .iter()
            .any(|&known| tensor.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(" (")))
    };
    let mut beyond = results.iter().filter(|comparison| !comparison.within_tolerance());
    match status {
        Status::Passed => (Status::Failed, format!("passed, but should fail since {}", known.reason)),
        Status::Failed
            if !results.is_empty()
                && reason.starts_with("beyond tolerance")
                && beyond.all(|comparison| named(&comparison.tensor)) =>
        {
            (Status::Skipped, format!("expected failure of {case}: {}", known.reason))
        }
        _ => (status, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Number;

    const FLUSHES: Traits = Traits { flushes_subnormals: true };
    const KEEPS: Traits = Traits { flushes_subnormals: false };

    fn beyond(tensors: &[&str]) -> Vec<Comparison> {
        let comparison = |tensor: &&str| Comparison {
            tensor: (*tensor).into(),
            ratio_atol: Number(400.0),
            ratio_tight: None,
            worst: None,
        };
        tensors.iter().map(comparison).collect()
    }

    fn revised(traits: Traits, case: &str, status: Status, tensors: &[&str]) -> Status {
        let reason = if status == Status::Failed { "beyond tolerance: some" } else { "" };
        revise(traits, case, status, reason.into(), &beyond(tensors)).0
    }

    #[test]
    fn only_the_known_tensors_of_the_known_case_may_fail_and_only_where_the_probe_says_so() {
        let case = KNOWN[0].case;
        let known = ["dweight", "dweight (in place)"];
        assert_eq!(revised(FLUSHES, case, Status::Failed, &known), Status::Skipped);
        assert_eq!(revised(KEEPS, case, Status::Failed, &known), Status::Failed);
        assert_eq!(revised(FLUSHES, "adv.tiny_1e-20", Status::Failed, &known), Status::Failed);
        assert_eq!(revised(FLUSHES, case, Status::Failed, &["dweight", "dx"]), Status::Failed);
        assert_eq!(revised(FLUSHES, case, Status::Failed, &["dweighty"]), Status::Failed);
    }

    #[test]
    fn what_is_no_matter_of_tolerance_stays_a_failure() {
        let case = KNOWN[0].case;
        let panic = revise(FLUSHES, case, Status::Failed, "panic: no message".into(), &[]);
        assert_eq!(panic.0, Status::Failed);
        let unwritten =
            revise(FLUSHES, case, Status::Failed, "y: 3 of 4 values were not written".into(), &beyond(&["dweight"]));
        assert_eq!(unwritten.0, Status::Failed);
    }

    #[test]
    fn passing_against_the_record_is_a_failure() {
        assert_eq!(revised(FLUSHES, KNOWN[0].case, Status::Passed, &[]), Status::Failed);
        assert_eq!(revised(KEEPS, KNOWN[0].case, Status::Passed, &[]), Status::Passed);
    }
}
