// One set of gradient sums, as it is written to memory.

/// Σh, Σh·x̂.
alias Record = vec2<f32>;
