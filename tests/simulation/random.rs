//! What is left to chance, by seed.

/// A sequence of random numbers, and what is drawn with them.
#[derive(Clone, Debug)]
pub(crate) struct Random(leveret::random::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(leveret::random::Random::new(seed ^ 0x5DEE_CE66_D1CE_4E5B));
        random.draw();
        random
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0.draw()
    }

    /// From 0 up to and without `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    /// From `first` up to and with `last`.
    pub(crate) fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// True once in `n` draws.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.draw().is_multiple_of(n)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// An index, each as often as its weight says.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u32 = weights.iter().sum();
        let mut left = (self.draw() % u64::from(total)) as u32;
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        unreachable!("the weights add up to their sum")
    }
}
