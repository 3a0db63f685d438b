//! Identity of a request in logs: its id, and its position in a trace (W3C Trace Context:
//! <https://www.w3.org/TR/trace-context/>).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use uuid::Uuid;

/// The caller's `x-request-id` if it is short and plain enough to repeat in headers and logs, otherwise a new id.
pub fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    given.filter(|id| is_request_id(id)).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/=+".contains(&b))
}

/// Position of a request in a trace: a span of our own in the caller's trace, or in a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceContext {
    /// Continues the trace of `traceparent`. If that header is missing, invalid or repeated, a new trace begins.
    pub fn of(headers: &HeaderMap) -> TraceContext {
        let mut given = headers.get_all("traceparent").iter();
        let parent = match (given.next(), given.next()) {
            (Some(one), None) => one.to_str().ok().and_then(parse),
            _ => None,
        };
        // Random UUIDs are never zero, which would be invalid here.
        let span = Uuid::new_v4().as_u64_pair().1;
        match parent {
            Some(parent) => TraceContext { span, ..parent },
            None => TraceContext { trace: Uuid::new_v4().as_u128(), span, sampled: false },
        }
    }

    /// Value of the `traceparent` header, for messages on the bus and outgoing webhooks.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// Trace id as 32 hexadecimal digits, for the log.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl<S: Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_else(|| TraceContext::of(&parts.headers)))
    }
}

fn parse(header: &str) -> Option<TraceContext> {
    let mut fields = header.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // Later versions may have more fields; version 00 must not.
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    hex(version, 2)?;
    let trace = hex(trace, 32).filter(|&trace| trace != 0)?;
    let span = hex(span, 16).filter(|&span| span != 0)? as u64;
    Some(TraceContext { trace, span, sampled: hex(flags, 2)? & 1 == 1 })
}

/// Parses exactly this number of lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(values: &[&str]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn a_trace_continues_with_a_span_of_its_own() {
        let context = of(&[PARENT]);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let ours = context.traceparent();
        assert!(ours.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && ours.ends_with("-01"), "{ours}");
        assert!(!ours.contains("b7ad6b7169203331"));
        assert_eq!(parse(&ours).map(|own| own.traceparent()), Some(ours));
        // A later version, with one more field.
        assert_eq!(of(&[&format!("cc{}-what", &PARENT[2..])]).trace_id(), context.trace_id());
    }

    #[test]
    fn an_invalid_traceparent_starts_a_new_trace() {
        for invalid in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", axum::http::HeaderValue::from_bytes(invalid.as_bytes()).unwrap());
            assert_ne!(
                TraceContext::of(&headers).trace_id(),
                "0af7651916cd43dd8448eb211c80319c",
                "{invalid}"
            );
        }
        assert_ne!(of(&[PARENT, PARENT]).trace_id(), "0af7651916cd43dd8448eb211c80319c");
    }
}
