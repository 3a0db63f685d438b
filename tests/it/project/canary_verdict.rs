//! The verdicts of the rehearsal's canaries: each bound fails when it is violated, and just not before.

#[path = "../../rehearse/verdict.rs"]
mod verdict;

use std::collections::BTreeSet;

use verdict::{Bad, Share};

fn ids(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A thousand requests, of which the canary had a tenth and spoilt a third.
fn as_it_should_be() -> Bad {
    let fleet = ids(&["i-1", "i-2", "i-3"]);
    Bad {
        alarmed: true,
        share: Share { requests: 1000, canary: 100 },
        answers: 99,
        spoilt: 33,
        failed: 33,
        before: fleet.clone(),
        after: fleet,
    }
}

/// The verdict after one change, which must name the violated bound.
#[track_caller]
fn fails(change: impl FnOnce(&mut Bad), told: &str) {
    let mut seen = as_it_should_be();
    change(&mut seen);
    let verdict = verdict::bad(&seen);
    assert!(verdict.as_ref().is_err_and(|problem| problem.contains(told)), "{verdict:?}");
}

#[track_caller]
fn passes(change: impl FnOnce(&mut Bad)) {
    let mut seen = as_it_should_be();
    change(&mut seen);
    assert_eq!(verdict::bad(&seen), Ok(()));
}

#[test]
fn a_bad_canary_that_was_noticed_in_time_passes() {
    passes(|_| ());
    let due = verdict::due(&as_it_should_be().share);
    assert!((33.3..33.4).contains(&due), "{due}");
}

#[test]
fn a_gate_that_does_not_alarm_fails_the_bad_canary() {
    fails(|seen| seen.alarmed = false, "the gate has not noticed");
}

#[test]
fn more_than_a_third_of_the_canarys_answers_fails() {
    passes(|seen| seen.spoilt = 34);
    fails(|seen| seen.spoilt = 35, "35 of 99 answers of the canary are 5xx");
}

#[test]
fn more_failed_requests_than_a_third_of_a_tenth_fails() {
    // 33 are due. By chance there are 53 or more less than once in a thousand times.
    passes(|seen| seen.failed = 52);
    fails(|seen| seen.failed = 53, "53 of 1000 requests have failed, where 33 were due");
    // As if half of the canary's answers failed, or a fifth of the requests were its own.
    fails(|seen| seen.failed = 67, "67 of 1000 requests have failed");
    // Fewer are no violation: its clients had ended.
    passes(|seen| seen.failed = 0);
}

#[test]
fn the_bound_is_a_share_and_not_a_number() {
    let share = |requests, canary| Share { requests, canary };
    fails(
        |seen| (seen.share, seen.failed) = (share(300, 30), 33),
        "33 of 300 requests have failed, where 10 were due",
    );
    passes(|seen| (seen.share, seen.failed) = (share(3000, 300), 54));
}

#[test]
fn another_share_than_a_tenth_fails() {
    for canary in [0, 70, 131, 200, 1000] {
        fails(|seen| seen.share.canary = canary, "no tenth");
        let share = Share { requests: 1000, canary };
        assert!(verdict::may_be_rolled(false, &share, 0).is_err_and(|problem| problem.contains("no tenth")));
    }
    for canary in [72, 100, 130] {
        passes(|seen| seen.share.canary = canary);
        assert_eq!(verdict::may_be_rolled(false, &Share { requests: 1000, canary }, 0), Ok(()));
    }
}

#[test]
fn a_fleet_that_changes_fails_the_bad_canary() {
    fails(|seen| seen.after = ids(&["i-1", "i-2", "i-4"]), "the fleet was");
    fails(|seen| seen.after = ids(&["i-1", "i-2"]), "the fleet was");
    fails(|seen| seen.after = ids(&["i-1", "i-2", "i-3", "i-4"]), "the fleet was");
    fails(|seen| (seen.before, seen.after) = (ids(&[]), ids(&[])), "the fleet was");
}

#[test]
fn a_fleet_with_another_image_fails() {
    let found = |versions: [&str; 2]| versions.map(|version| (format!("i-of-{version}"), version.to_owned()));
    assert_eq!(verdict::all_run("image-1", &found(["image-1", "image-1"])), Ok(()));
    let verdict = verdict::all_run("image-1", &found(["image-1", "image-1-spoilt"]));
    assert_eq!(verdict, Err("i-of-image-1-spoilt runs \"image-1-spoilt\" and not image-1".to_owned()));
    assert_eq!(verdict::all_run("image-1", &[]), Err("no instance runs image-1".to_owned()));
}

#[test]
fn a_weight_that_is_not_0_in_the_end_fails() {
    assert_eq!(verdict::is_at_rest(Some(0), 0), Ok(()));
    for (weight, canaries) in
        [(Some(verdict::WEIGHT), 0), (Some(1), 0), (None, 0), (Some(0), 1), (Some(verdict::WEIGHT), 1)]
    {
        assert!(verdict::is_at_rest(weight, canaries).is_err(), "{weight:?}, {canaries}");
    }
}

#[test]
fn one_failed_request_fails_the_good_canary() {
    let share = Share { requests: 1000, canary: 100 };
    assert_eq!(verdict::may_be_rolled(false, &share, 0), Ok(()));
    assert_eq!(
        verdict::may_be_rolled(false, &share, 1),
        Err("1 requests have failed, and none may".to_owned())
    );
    assert!(
        verdict::may_be_rolled(true, &share, 0)
            .is_err_and(|problem| problem.contains("a good canary for a bad one"))
    );
    assert_eq!(verdict::good(0, 0), Ok(()));
    assert_eq!(verdict::good(0, 1), Err("1 requests have failed, and none may".to_owned()));
    assert_eq!(verdict::good(1, 0), Err("the canary has had 1 requests at rest".to_owned()));
}

#[test]
fn only_the_defects_own_answers_may_fail() {
    assert!(verdict::is_the_defects(true, true, 1.0) && verdict::is_the_defects(true, true, -29.0));
    assert!(!verdict::is_the_defects(false, true, 1.0), "another instance has failed");
    assert!(!verdict::is_the_defects(true, false, 1.0), "the canary did not answer");
    assert!(!verdict::is_the_defects(true, true, -31.0), "long before there was a defect");
}

#[test]
fn the_gate_alarms_by_the_rule_of_the_stacks() {
    // More than 1 % and at least 3, in 2 of 3 periods: CanaryGateTarget5xx.
    assert!(verdict::is_bad_period(100, 3) && !verdict::is_bad_period(100, 2));
    assert!(verdict::is_bad_period(399, 4) && !verdict::is_bad_period(400, 4));
    assert!(!verdict::is_bad_period(0, 0));
    for (periods, alarms) in [
        (&[true][..], false),
        (&[true, true], true),
        (&[true, false, true], true),
        (&[true, false, false, true], false),
        (&[true, true, false, false], false),
        (&[], false),
    ] {
        assert_eq!(verdict::alarms(periods), alarms, "{periods:?}");
    }
    let template = std::fs::read_to_string("cloudformation/60-service.yaml").unwrap();
    let gate = template
        .split("  CanaryGateTarget5xx:\n")
        .nth(1)
        .unwrap()
        .split("  CanaryGateLatency:\n")
        .next()
        .unwrap();
    for rule in [
        "IF(errors >= 3, 100 * errors / requests, 0)",
        "Threshold: 1, EvaluationPeriods: 3, DatapointsToAlarm: 2",
    ] {
        assert!(gate.contains(rule), "the stacks' rule is another one: {gate}");
    }
}
