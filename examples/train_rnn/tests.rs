//! That every variant learns, on every adapter.

mod on_every_adapter {
    use crate::network::support;
    use crate::*;

    #[test]
    fn every_variant_learns() {
        let all = support::open_all(None);
        assert!(!all.is_empty(), "{}", support::NO_ADAPTER);
        let digits = Digits::load();
        let (training, test) = (Sequences::cut(&digits.training, 1), Sequences::cut(&digits.test, 2));
        for context in all.into_iter().map(Context::new) {
            for variant in Variant::ALL {
                let model = Rnn::new(&context, variant, 1).unwrap();
                let trainer = bind(&context, &model, &training, &test, 0.01).unwrap();
                let mut batches = Batches::new(training.labels.len(), BATCH_SIZE, 1);
                let looks = trainer.run(&mut batches, 30, 15, &Progress::hidden());
                let losses: Vec<f64> = looks.iter().filter_map(|look| Some(look.training?.loss)).collect();
                // Chance is ln 10 = 2.3.
                assert!(losses.len() == 2 && losses[1] < losses[0] && losses[1] < 2.0, "{variant:?}: {losses:?}");
                assert!(looks[2].test.accuracy > 0.2, "{variant:?}: {looks:?}");
            }
        }
    }
}
