// One set of mergeable statistics, as it is written to memory.

/// Count, pivot, Σ(x − pivot), M2.
alias Record = vec4<f32>;
