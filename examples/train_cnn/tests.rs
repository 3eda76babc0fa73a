//! Layouts, folding and snapshots of the whole network, on every adapter.

mod on_every_adapter {
    use crate::network::support;
    use crate::*;

    /// Trained for some steps, so that running statistics and betas are not what they were at first.
    fn trained(context: &Context, layout: Layout, batch_norm: bool, digits: &Digits) -> (Cnn, f64) {
        let model = Cnn::new(context, layout, batch_norm, 5).unwrap();
        let method = (Method::Sgd { momentum: 0.9 }, 0.05);
        let trainer = bind(context, &model, [&digits.training, &digits.test], 64, method).unwrap();
        trainer.step(&Batches::new(digits.training.len(), 64, 5).take(10));
        let loss = trainer.training_scores.take(context, 10).loss;
        (model, loss)
    }

    #[test]
    fn both_layouts_train_alike_and_folding_changes_nothing() {
        let all = support::open_all(None);
        assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
        let digits = Digits::load();
        let few = digits.test.gather(&(0..50).collect::<Vec<_>>());
        for context in all.into_iter().map(Context::new) {
            for batch_norm in [true, false] {
                let layouts = [Layout::ChannelsFirst, Layout::ChannelsLast];
                let [first, last] = layouts.map(|layout| trained(&context, layout, batch_norm, &digits));
                // Sums in another order: ten steps let rounding of 1e-7 grow a little.
                approx::assert_relative_eq!(first.1, last.1, max_relative = 1e-3);
                for (model, _) in [first, last] {
                    let found = compare_folded(&context, &model, &few, 0).unwrap();
                    assert!(found.largest_logit > 0.1, "{found:?}");
                    // Four layers, each rounding a sum of some tens of products twice, in units of 6e-8.
                    assert!(found.largest_difference <= 2e-5 * found.largest_logit, "{found:?}");
                }
            }
        }
    }

    #[test]
    fn a_saved_network_comes_back() {
        let digits = Digits::load();
        for context in support::open_all(None).into_iter().map(Context::new) {
            let (model, _) = trained(&context, Layout::ChannelsFirst, true, &digits);
            let saved = Snapshot::take(&context, &model.parameters(), &model.norms()).unwrap();
            let other = Cnn::new(&context, Layout::ChannelsFirst, true, 6).unwrap();
            saved.restore(&context, &other.parameters(), &other.norms()).unwrap();
            let again = Snapshot::take(&context, &other.parameters(), &other.norms()).unwrap();
            assert_eq!(saved, again);
            let batches = saved.running.iter().flatten().map(|running| running.batches_tracked);
            assert_eq!(batches.collect::<Vec<_>>(), [10; CHANNELS.len()]);
        }
    }
}
