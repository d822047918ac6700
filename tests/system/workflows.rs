//! The workflows of GitHub, parsed. They never ran here.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::run;
use crate::kubernetes::yaml;

/// A workflow and its job that may write, which has no checkout.
const WORKFLOWS: [(&str, Option<&str>); 2] = [("check", None), ("release", Some("publish"))];
/// Runs before a release.
const CHECK: &str = "./.github/workflows/check.yml";

#[test]
#[ignore = "needs the Python of kubernetes-validate; .ci/run runs it"]
fn workflows_use_versioned_actions_and_least_permissions() {
    for (name, writer) in WORKFLOWS {
        let workflow = parsed(name);
        assert_eq!(workflow["name"], name);
        assert_eq!(workflow["permissions"], json!({"contents": "read"}));
        // In a container, the default is sh without pipefail.
        assert_eq!(workflow["defaults"]["run"]["shell"], "bash");
        // YAML 1.1 takes the key `on` for a boolean.
        assert!(workflow["true"].is_object(), "{workflow}");
        for (job, settings) in workflow["jobs"].as_object().unwrap() {
            // Another workflow has settings of its own.
            if let Some(called) = settings["uses"].as_str() {
                assert_eq!(called, CHECK);
                continue;
            }
            assert!(settings["timeout-minutes"].is_u64(), "{job}");
            let writes = writer == Some(job.as_str());
            let permissions = &settings["permissions"];
            assert_eq!(!permissions.is_null(), writes, "{job}: {permissions}");
            let mut steps = settings["steps"].as_array().unwrap().iter();
            assert!(!steps.as_slice().is_empty(), "{job}");
            assert!(steps.all(|step| is_valid(step, writes)), "{name}: {job}");
        }
    }
}

#[test]
#[ignore = "needs the Python of kubernetes-validate; .ci/run runs it"]
fn release_is_built_and_published_after_all_checks() {
    let check = &parsed("check")["true"];
    assert!(check.as_object().unwrap().contains_key("workflow_call"));
    let jobs = &parsed("release")["jobs"];
    assert_eq!(jobs["check"], json!({"uses": CHECK}));
    assert_eq!(jobs["build"]["needs"], "check");
    assert_eq!(jobs["publish"]["needs"], "build");
}

/// Whether a step is an action of GitHub's with a version, or a script that bash can parse.
fn is_valid(step: &Value, writes: bool) -> bool {
    if let Some(action) = step["uses"].as_str() {
        let (name, version) = action.split_once("@v").unwrap_or((action, ""));
        let is_versioned = name.starts_with("actions/") && version.parse::<u32>().is_ok();
        let is_checkout = name == "actions/checkout";
        // The token stays out of the checkout.
        let keeps_token = step["with"]["persist-credentials"] != json!(false);
        return is_versioned && !(is_checkout && (writes || keeps_token));
    }
    let script = step["run"].as_str().expect("an action or a script");
    // An expression in a script could bring in code, such as the name of a branch.
    assert!(!script.contains("${{"), "{script}");
    let (status, _, err) = run(Command::new("bash").args(["-n", "-c", script]));
    assert!(status.success(), "{script}: {err}");
    true
}

fn parsed(name: &str) -> Value {
    let file = format!(".github/workflows/{name}.yml");
    yaml(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).remove(0)
}
