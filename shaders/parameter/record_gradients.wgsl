// Leaves what the input gradient depends on beside the partial gradient sums: gamma, beta, and what x was normalised with.

fn record_parameters(channel: u32) {
    if has(RECORDS_PARAMETERS) {
        let at = params.records_base + 3u * channel;
        let normalizer = normalizer_at(channel);
        partials[at] = Record(gamma_at(channel), beta_at(channel));
        partials[at + 1u] = Record(normalizer.x, normalizer.y);
        partials[at + 2u] = Record(normalizer.z, 0.0);
    }
}
