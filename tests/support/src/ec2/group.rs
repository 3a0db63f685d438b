//! An Auto Scaling group: the states of its instances and their order.
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html>

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    PendingWait,
    PendingProceed,
    InService,
    TerminatingWait,
    TerminatingProceed,
    Terminated,
}

impl State {
    /// Name of the state as AWS writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::PendingWait => "Pending:Wait",
            State::PendingProceed => "Pending:Proceed",
            State::InService => "InService",
            State::TerminatingWait => "Terminating:Wait",
            State::TerminatingProceed => "Terminating:Proceed",
            State::Terminated => "Terminated",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Continue,
    Abandon,
}

/// Lifecycle hook: the group waits for it before an instance serves or is terminated.
#[derive(Clone, Debug)]
pub struct Hook {
    pub name: String,
    /// Time without a heartbeat after which the default result applies.
    pub timeout: Duration,
    pub default: Outcome,
}

impl Hook {
    pub fn new(name: &str, timeout: Duration, default: Outcome) -> Hook {
        Hook { name: name.to_owned(), timeout, default }
    }
}

/// A lifecycle action in progress.
#[derive(Clone, Debug)]
pub struct Wait {
    hook: Hook,
    began: Instant,
    until: Instant,
}

/// Result of a lifecycle action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub hook: String,
    pub outcome: Outcome,
    /// The action timed out and got the default result.
    pub by_default: bool,
}

#[derive(Clone, Debug)]
pub struct Instance {
    /// Name of its group.
    pub group: String,
    pub state: State,
    pub healthy: bool,
    /// Its availability zone.
    pub zone: String,
    wait: Option<Wait>,
    /// Heartbeats by hook.
    pub heartbeats: BTreeMap<String, usize>,
    pub results: Vec<Ended>,
    /// Every state that it has been in.
    pub history: Vec<State>,
    pub tags: BTreeMap<String, String>,
    /// Answer at `spot/instance-action`.
    pub spot_action: Option<String>,
    /// Answer at `events/recommendations/rebalance`.
    pub rebalance: Option<String>,
    /// Answer at `autoscaling/target-lifecycle-state`, if it differs from the group's own target.
    pub target: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Group {
    pub name: String,
    pub launch_hook: Option<Hook>,
    pub termination_hook: Option<Hook>,
    /// Whether an unhealthy instance stays until its replacement serves (the maintenance policy's 100 %); the driver of
    /// the group has to ensure that.
    pub replaces_first: bool,
    pub instances: BTreeMap<String, Instance>,
}

/// Error: the action to be completed or extended is not in progress.
#[derive(Debug)]
pub struct NoActiveAction;

impl Group {
    pub fn new(name: &str) -> Group {
        Group { name: name.to_owned(), ..Group::default() }
    }

    pub fn instance(&self, id: &str) -> &Instance {
        &self.instances[id]
    }

    pub fn instance_mut(&mut self, id: &str) -> &mut Instance {
        self.instances.get_mut(id).unwrap()
    }

    /// Launches an instance.
    pub fn launch(&mut self, id: &str, now: Instant) {
        let mut instance = Instance {
            group: self.name.clone(),
            state: State::PendingWait,
            healthy: true,
            zone: super::metadata::ZONE.to_owned(),
            wait: None,
            heartbeats: BTreeMap::new(),
            results: Vec::new(),
            history: Vec::new(),
            tags: BTreeMap::from([("aws:autoscaling:groupName".to_owned(), self.name.clone())]),
            spot_action: None,
            rebalance: None,
            target: None,
        };
        match &self.launch_hook {
            Some(hook) => instance.begin(State::PendingWait, hook, now),
            None => instance.enter(State::InService),
        }
        self.instances.insert(id.to_owned(), instance);
    }

    /// Starts the termination of an instance, as for a scale-in, a rollout, or a replacement.
    pub fn terminate(&mut self, id: &str, now: Instant) {
        let hook = self.termination_hook.clone();
        let instance = self.instance_mut(id);
        assert!(matches!(instance.state, State::InService | State::PendingWait), "{:?}", instance.state);
        match &hook {
            Some(hook) => instance.begin(State::TerminatingWait, hook, now),
            None => {
                instance.enter(State::TerminatingProceed);
                instance.enter(State::Terminated);
            }
        }
    }

    /// `SetInstanceHealth`: an unhealthy instance is replaced. False if there is no such instance.
    pub fn set_health(&mut self, id: &str, healthy: bool, now: Instant) -> bool {
        let Some(instance) = self.instances.get_mut(id) else { return false };
        instance.healthy = healthy;
        if !healthy && instance.state == State::InService && !self.replaces_first {
            self.terminate(id, now);
        }
        true
    }

    /// `CompleteLifecycleAction`.
    pub fn complete(
        &mut self,
        id: &str,
        hook: &str,
        outcome: Outcome,
        now: Instant,
    ) -> Result<(), NoActiveAction> {
        self.pass(now);
        self.active(id, hook)?;
        self.end(id, outcome, false);
        Ok(())
    }

    /// `RecordLifecycleActionHeartbeat`.
    pub fn heartbeat(&mut self, id: &str, hook: &str, now: Instant) -> Result<(), NoActiveAction> {
        self.pass(now);
        let wait = self.active(id, hook)?;
        // 48 hours or a hundred timeouts, whichever is less.
        let longest = (wait.hook.timeout * 100).min(Duration::from_secs(48 * 3600));
        wait.until = (now + wait.hook.timeout).min(wait.began + longest);
        let instance = self.instance_mut(id);
        *instance.heartbeats.entry(hook.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Applies the time that has passed: actions that have timed out get the default result.
    pub fn pass(&mut self, now: Instant) {
        let over: Vec<_> = self
            .instances
            .iter()
            .filter_map(|(id, instance)| {
                let wait = instance.wait.as_ref().filter(|wait| wait.until <= now)?;
                Some((id.clone(), wait.hook.default))
            })
            .collect();
        for (id, outcome) in over {
            self.end(&id, outcome, true);
        }
    }

    fn active(&mut self, id: &str, hook: &str) -> Result<&mut Wait, NoActiveAction> {
        let wait = self.instances.get_mut(id).and_then(|instance| instance.wait.as_mut());
        wait.filter(|wait| wait.hook.name == hook).ok_or(NoActiveAction)
    }

    fn end(&mut self, id: &str, outcome: Outcome, by_default: bool) {
        let instance = self.instance_mut(id);
        let wait = instance.wait.take().unwrap();
        instance.results.push(Ended { hook: wait.hook.name, outcome, by_default });
        match (instance.state, outcome) {
            (State::PendingWait, Outcome::Continue) => {
                instance.enter(State::PendingProceed);
                instance.enter(State::InService);
            }
            // Whatever the result, a terminating instance is terminated.
            _ => {
                instance.enter(State::TerminatingProceed);
                instance.enter(State::Terminated);
            }
        }
    }
}

impl Instance {
    fn enter(&mut self, state: State) {
        self.state = state;
        self.history.push(state);
    }

    fn begin(&mut self, state: State, hook: &Hook, now: Instant) {
        self.enter(state);
        self.wait = Some(Wait { hook: hook.clone(), began: now, until: now + hook.timeout });
    }

    /// State that the group wants for it.
    pub fn target(&self) -> &str {
        match self.state {
            _ if self.target.is_some() => self.target.as_deref().unwrap_or_default(),
            State::PendingWait | State::PendingProceed | State::InService => "InService",
            State::TerminatingWait | State::TerminatingProceed | State::Terminated => "Terminated",
        }
    }
}

#[test]
fn an_action_without_heartbeats_ends_with_its_default() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut group = Group::new("g");
    group.launch_hook = Some(Hook::new("launch", Duration::from_secs(30), Outcome::Abandon));
    group.termination_hook = Some(Hook::new("end", Duration::from_secs(30), Outcome::Continue));
    group.launch("i-1", now);
    group.heartbeat("i-1", "launch", after(29)).unwrap();
    group.heartbeat("i-1", "end", after(29)).unwrap_err();
    group.pass(after(58));
    assert_eq!(group.instance("i-1").state, State::PendingWait);
    group.complete("i-1", "launch", Outcome::Continue, after(59)).unwrap_err();
    assert_eq!(group.instance("i-1").state, State::Terminated);
    assert!(group.instance("i-1").results[0].by_default);

    // A hundred heartbeats and no more.
    group.launch("i-2", now);
    group.complete("i-2", "launch", Outcome::Continue, after(1)).unwrap();
    group.terminate("i-2", now);
    for beat in 0..=100 {
        group.heartbeat("i-2", "end", after(29 * beat)).unwrap();
    }
    group.heartbeat("i-2", "end", after(3000)).unwrap_err();
    assert_eq!(
        group.instance("i-2").history,
        [
            State::PendingWait,
            State::PendingProceed,
            State::InService,
            State::TerminatingWait,
            State::TerminatingProceed,
            State::Terminated
        ]
    );
}
