//! How far compressed weights are from what they were.

/// Sums of squares: of what was, and of how far it is off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SquaredError {
    pub signal: f64,
    pub noise: f64,
}

impl SquaredError {
    pub fn add(&mut self, value: f32, approximation: f32) {
        self.signal += f64::from(value) * f64::from(value);
        self.noise += (f64::from(value) - f64::from(approximation)).powi(2);
    }

    /// Of two sequences.
    #[cfg(test)]
    pub fn between(values: &[f32], approximations: &[f32]) -> Self {
        let mut error = Self::default();
        values.iter().zip(approximations).for_each(|(&value, &other)| error.add(value, other));
        error
    }

    /// Signal over noise in decibels; `None` where there is no noise or no signal.
    pub fn decibels(&self) -> Option<f64> {
        (self.noise > 0.0 && self.signal > 0.0).then(|| 10.0 * (self.signal / self.noise).log10())
    }
}

impl std::ops::AddAssign for SquaredError {
    fn add_assign(&mut self, other: Self) {
        self.signal += other.signal;
        self.noise += other.noise;
    }
}
