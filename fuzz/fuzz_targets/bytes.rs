//! Generators of the property tests, drawn from by the bytes of a fuzzer.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A fuzzer's bytes, taken from the front: eight for each part of a case, so that a change of one part leaves the others.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// The value of a generator whose random numbers are seeded by the next eight bytes, zeros past the end.
    ///
    /// proptest can take random numbers from bytes directly, but halves what is left for each nested generator, and those that draw
    /// until something fits then wait for ever in zeros.
    pub fn draw<S: Strategy>(&mut self, strategy: &S) -> S::Value {
        let (taken, rest) = self.0.split_at(self.0.len().min(8));
        self.0 = rest;
        let mut seed = [0; 32];
        seed[..taken.len()].copy_from_slice(taken);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let config = Config { failure_persistence: None, ..Config::default() };
        let tree = strategy.new_tree(&mut TestRunner::new_with_rng(config, rng));
        tree.expect("no generator gives up").current()
    }
}
