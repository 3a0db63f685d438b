//! The calls of EC2 Auto Scaling that an instance makes: the query API of 2011-01-01, with a form as the request and
//! XML as the answer. <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/>

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::metadata::{ACCESS_KEY, REGION, SESSION_TOKEN};
use super::{Outcome, World, fault};

const NAMESPACE: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";

type Shared = Arc<Mutex<World>>;
type Form = BTreeMap<String, String>;

/// A refusal by AWS: a code and a message.
struct Refusal(&'static str, String);

pub fn router(world: Shared) -> Router {
    Router::new().fallback(answer).with_state(world)
}

async fn answer(State(world): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 64 * 1024).await.unwrap();
    let form: Form = url::form_urlencoded::parse(&body).into_owned().collect();
    let due = {
        let mut world = world.lock().unwrap();
        if let Some(action) = form.get("Action") {
            record(action);
        }
        world.requests.push(describe(&form));
        world.autoscaling_faults.pop_front().or(world.autoscaling_outage)
    };
    if let Some(status) = fault(due).await {
        return status.into_response();
    }
    if head.method != Method::POST || form.get("Version").map(String::as_str) != Some("2011-01-01") {
        return refuse(&Refusal("InvalidAction", "Could not find operation".to_owned()));
    }
    let done = check_signature(&head.headers).and_then(|()| act(&mut world.lock().unwrap(), &form));
    match done {
        Ok(result) => xml(StatusCode::OK, &result),
        Err(refusal) => refuse(&refusal),
    }
}

/// Records that the product calls this action, as tests/clients/recorder.py does for calls that the emulator answers.
fn record(action: &str) {
    let Some(file) = std::env::var_os("SALEBELL_TEST_CALLS") else { return };
    let line = format!("instance autoscaling:{action}\n");
    let mut lines = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
    lines.write_all(line.as_bytes()).unwrap();
}

/// Description of a call for assertions, such as `CompleteLifecycleAction InstanceId=i-1 …`.
fn describe(form: &Form) -> String {
    let action = form.get("Action").cloned().unwrap_or_default();
    let rest = form.iter().filter(|(key, _)| !matches!(key.as_str(), "Action" | "Version"));
    rest.fold(action, |text, (key, value)| format!("{text} {key}={value}"))
}

/// Checks that the request uses the role's key, for this service and region. The signature itself is not computed.
fn check_signature(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = text("authorization");
    if !authorization.starts_with("AWS4-HMAC-SHA256 ") {
        return Err(Refusal(
            "MissingAuthenticationToken",
            "Request is missing Authentication Token".to_owned(),
        ));
    }
    let scope = format!("/{REGION}/autoscaling/aws4_request");
    let of_the_role = authorization.contains(&format!("Credential={ACCESS_KEY}/"));
    if !authorization.contains(&scope) || (of_the_role && text("x-amz-security-token") != SESSION_TOKEN) {
        let message = "The security token included in the request is invalid.";
        return Err(Refusal("InvalidClientTokenId", message.to_owned()));
    }
    Ok(())
}

fn act(world: &mut World, form: &Form) -> Result<String, Refusal> {
    let now = Instant::now();
    world.group.pass(now);
    let action = form.get("Action").map_or("", String::as_str);
    let inner = match action {
        "CompleteLifecycleAction" => {
            let (id, hook) = (instance_of_group(world, form)?, required(form, "LifecycleHookName")?);
            let outcome = match required(form, "LifecycleActionResult")? {
                "CONTINUE" => Outcome::Continue,
                "ABANDON" => Outcome::Abandon,
                other => {
                    return Err(invalid(format!("{other} is not a valid lifecycle action result")));
                }
            };
            world.group.complete(id, hook, outcome, now).map_err(|_| no_active_action(id))?;
            String::new()
        }
        "RecordLifecycleActionHeartbeat" => {
            let (id, hook) = (instance_of_group(world, form)?, required(form, "LifecycleHookName")?);
            world.group.heartbeat(id, hook, now).map_err(|_| no_active_action(id))?;
            String::new()
        }
        "SetInstanceHealth" => {
            let (id, status) = (required(form, "InstanceId")?, required(form, "HealthStatus")?);
            let healthy = match status {
                "Healthy" => true,
                "Unhealthy" => false,
                other => return Err(invalid(format!("{other} is not a valid health status"))),
            };
            if !world.group.set_health(id, healthy, now) {
                let message =
                    format!("Instance Id not found - No managed instance found for instance ID {id}");
                return Err(invalid(message));
            }
            String::new()
        }
        "DescribeAutoScalingInstances" => describe_instances(world, form),
        other => {
            let message = format!("Could not find operation {other} for version 2011-01-01");
            return Err(Refusal("InvalidAction", message));
        }
    };
    Ok(format!(
        "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{inner}</{action}Result>\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{action}Response>",
        uuid::Uuid::now_v7()
    ))
}

fn describe_instances(world: &World, form: &Form) -> String {
    let wanted: Vec<&String> =
        form.iter().filter(|(key, _)| key.starts_with("InstanceIds.member.")).map(|(_, id)| id).collect();
    let members: String = world
        .group
        .instances
        .iter()
        .filter(|(id, _)| wanted.is_empty() || wanted.contains(id))
        .map(|(id, instance)| {
            format!(
                "<member><InstanceId>{id}</InstanceId><AutoScalingGroupName>{}</AutoScalingGroupName>\
                 <AvailabilityZone>{}</AvailabilityZone><LifecycleState>{}</LifecycleState>\
                 <HealthStatus>{}</HealthStatus><ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>",
                instance.group,
                instance.zone,
                instance.state.name(),
                if instance.healthy { "HEALTHY" } else { "UNHEALTHY" },
            )
        })
        .collect();
    format!("<AutoScalingInstances>{members}</AutoScalingInstances>")
}

fn instance_of_group<'a>(world: &World, form: &'a Form) -> Result<&'a str, Refusal> {
    let group = required(form, "AutoScalingGroupName")?;
    let id = required(form, "InstanceId")?;
    let of = world.group.instances.get(id).map_or(&world.group.name, |instance| &instance.group);
    if group != of {
        return Err(invalid("AutoScalingGroup name not found - null".to_owned()));
    }
    Ok(id)
}

fn required<'a>(form: &'a Form, key: &str) -> Result<&'a str, Refusal> {
    let value = form.get(key).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| {
        let (first, rest) = key.split_at(1);
        invalid(format!(
            "1 validation error detected: Value null at '{}{rest}' failed to satisfy constraint: \
             Member must not be null",
            first.to_lowercase()
        ))
    })
}

fn no_active_action(id: &str) -> Refusal {
    invalid(format!("No active Lifecycle Action found with instance ID {id}"))
}

fn invalid(message: String) -> Refusal {
    Refusal("ValidationError", message)
}

fn refuse(Refusal(code, message): &Refusal) -> Response {
    let status = match *code {
        "MissingAuthenticationToken" | "InvalidClientTokenId" => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    };
    let text = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        uuid::Uuid::now_v7()
    );
    xml(status, &text)
}

fn xml(status: StatusCode, text: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/xml")], text.to_owned()).into_response()
}
