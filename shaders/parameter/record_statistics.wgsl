// Leaves gamma and beta beside the partial statistics.

fn record_parameters(channel: u32) {
    if has(RECORDS_PARAMETERS) {
        partials[params.records_base + channel] = Record(gamma_at(channel), beta_at(channel), 0.0, 0.0);
    }
}
