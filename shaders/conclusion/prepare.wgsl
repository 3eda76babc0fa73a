// Leaves a channel's parameters where a dispatch that has no bindings left for them finds them.

fn visit_channel(channel: u32) {
    record_parameters(channel);
}
