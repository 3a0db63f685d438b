//! `[telemetry]`: metrics for CloudWatch.

use std::str::FromStr;
use std::time::Duration;

use super::aws::AwsConfig;
use super::reader::Reader;

/// `[telemetry]`: destination and dimensions of the metrics.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `telemetry.emf`: destination of the lines in CloudWatch's embedded metric format.
    pub emf: EmfTarget,
    /// `telemetry.emf_every_s`: interval between two writes.
    pub emf_every: Duration,
    /// `telemetry.environment`: a dimension of the metrics. Without it, the last part of `aws.parameters`, or else
    /// `local`.
    pub environment: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmfTarget {
    Off,
    Journal,
    Stdout,
}

impl FromStr for EmfTarget {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(EmfTarget::Off),
            "journal" => Ok(EmfTarget::Journal),
            "stdout" => Ok(EmfTarget::Stdout),
            _ => Err("must be off, journal or stdout"),
        }
    }
}

impl TelemetryConfig {
    pub(super) fn read(r: &mut Reader, aws: &AwsConfig) -> Option<TelemetryConfig> {
        let environment = r.optional("telemetry.environment").filter(|name| !name.is_empty());
        let of_parameters = || aws.parameters.as_ref()?.rsplit('/').next().map(str::to_owned);
        let telemetry = TelemetryConfig {
            emf: r.get("telemetry.emf")?,
            emf_every: r.seconds("telemetry.emf_every_s")?,
            environment: environment.or_else(of_parameters).unwrap_or_else(|| "local".to_owned()),
        };
        if telemetry.emf_every.is_zero() {
            r.problem("telemetry.emf_every_s", "must be at least 1");
        }
        // The characters that `salebell boot` allows, and dots; the name becomes a dimension of every metric.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if telemetry.environment.len() > 64 || !telemetry.environment.chars().all(plain) {
            r.problem("telemetry.environment", "must be up to 64 letters, digits, dots, dashes, underscores");
        }
        Some(telemetry)
    }
}
