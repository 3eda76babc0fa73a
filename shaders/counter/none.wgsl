// No batch counter: gradients.

fn count_batch() {}
