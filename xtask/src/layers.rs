//! Runs a Vulkan program under the Khronos validation layer and reads from its output what the layer has to say.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

/// Everything that the layer checks by itself, and access from different dispatches, copies and submissions to the same
/// bytes without a barrier between. Information is asked for since the layer says with it that it is there.
const SETTINGS: &str = "\
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.report_flags = error,warn,perf,info
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT,\
VALIDATION_CHECK_ENABLE_SYNCHRONIZATION_VALIDATION_QUEUE_SUBMIT";

/// Advice on speed, of which wgpu's own use of Vulkan always earns some.
const ADVICE: &str = ",VK_VALIDATION_FEATURE_ENABLE_BEST_PRACTICES_EXT";

/// What a program under the layer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// That the layer has nothing to say.
    Silence,
    /// That what it says is heard: it is asked for advice as well, and must give some.
    Advice,
}

/// The environment that puts the layer of a folder under a program. Writes the layer's settings into `scratch`, and lets
/// it keep its cache there.
pub fn environment(manifests: &Path, scratch: &Path, expected: Expected) -> io::Result<Vec<(&'static str, OsString)>> {
    let settings = scratch.join("vk_layer_settings.txt");
    fs::create_dir_all(scratch)?;
    let advice = if expected == Expected::Advice { ADVICE } else { "" };
    fs::write(&settings, format!("{SETTINGS}{advice}\n"))?;
    Ok(vec![
        ("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation".into()),
        ("VK_LAYER_PATH", manifests.into()),
        ("VK_LAYER_SETTINGS_PATH", settings.into()),
        ("XDG_CACHE_HOME", scratch.join("cache").into()),
    ])
}

/// Follows the output of a program under the layer.
#[derive(Debug, Default)]
pub struct Watcher {
    /// Vulkan instances with the layer, and those of them with synchronisation validation.
    instances: u64,
    synchronised: u64,
    messages: Vec<String>,
}

impl Watcher {
    pub fn line(&mut self, line: &str) {
        // The program's own output has no line feeds before a message, so a message may begin anywhere in a line.
        if line.contains("Khronos Validation Layer Active") {
            self.instances += 1;
        } else if line.contains("Current Enables:") && line.contains("SYNCHRONIZATION_VALIDATION") {
            self.synchronised += 1;
        } else if ["(ERROR / ", "(WARN / ", "(PERF / "].iter().any(|severity| line.contains(severity)) {
            self.messages.push(line.trim().into());
        }
    }

    /// A remark on what was shown, if it is what was expected.
    pub fn finish(self, expected: Expected) -> Result<String, String> {
        let (count, instances) = (self.messages.len(), self.instances);
        if let (Expected::Silence, Some(first)) = (expected, self.messages.first()) {
            return Err(format!("{count} messages of the validation layer, the first: {first}"));
        }
        if instances == 0 || self.synchronised != instances {
            return Err("the validation layer was not loaded with its settings, so that it checked nothing".into());
        }
        match expected {
            Expected::Silence => {
                Ok(format!("nothing to say for the validation layer, in {instances} Vulkan instances"))
            }
            Expected::Advice if count == 0 => {
                Err("the validation layer was asked for advice, and nothing was heard of it".into())
            }
            Expected::Advice => Ok(format!("{count} messages of advice heard of the validation layer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: &str = "\
test on_every_adapter::some ... UNASSIGNED-khronos-validation-createinstance-status-message(INFO / SPEC): msgNum: -671457468 - \
Validation Information: [ UNASSIGNED ] | MessageID = 0xd7fa5f44 | Khronos Validation Layer Active:
    Settings File: Found at settings.txt specified by environment variable (VK_LAYER_SETTINGS_PATH).
    Current Enables: VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION.
    Current Disables: None.
";
    const HAZARD: &str = "SYNC-HAZARD-WRITE-AFTER-READ(ERROR / SPEC): msgNum: 929810911 - Validation Error: [ SYNC ]\n";

    fn watched(output: &str) -> Result<String, String> {
        expected(Expected::Silence, output)
    }

    fn expected(expected: Expected, output: &str) -> Result<String, String> {
        let mut watcher = Watcher::default();
        output.lines().for_each(|line| watcher.line(line));
        watcher.finish(expected)
    }

    #[test]
    fn a_silent_layer_is_clean_only_if_it_was_there() {
        assert!(watched(ACTIVE).unwrap().ends_with("in 1 Vulkan instances"));
        assert!(watched("test on_every_adapter::some ... ok\n").is_err());
        assert!(watched(&ACTIVE.replace("SYNCHRONIZATION", "BEST_PRACTICES")).is_err());
    }

    #[test]
    fn every_message_but_information_counts() {
        let error = watched(&format!("{ACTIVE}{HAZARD}ok\n{HAZARD}")).unwrap_err();
        assert!(error.starts_with("2 messages") && error.contains("SYNC-HAZARD-WRITE-AFTER-READ"), "{error}");
        for severity in ["WARN / SPEC", "WARN / PERF", "PERF / SPEC"] {
            assert!(watched(&format!("{ACTIVE}{}", HAZARD.replace("ERROR / SPEC", severity))).is_err(), "{severity}");
        }
        assert!(watched(&format!("{ACTIVE}{}", HAZARD.replace("ERROR", "INFO"))).is_ok());
    }

    #[test]
    fn a_layer_that_is_asked_for_advice_must_be_heard() {
        let advised = |output: &str| expected(Expected::Advice, output);
        assert!(advised(&format!("{ACTIVE}{}", HAZARD.replace("ERROR", "PERF"))).unwrap().starts_with("1 messages"));
        assert!(advised(ACTIVE).unwrap_err().contains("nothing was heard"));
        assert!(advised(HAZARD).unwrap_err().contains("not loaded"));
    }
}
