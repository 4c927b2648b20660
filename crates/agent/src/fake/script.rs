//! What a fake task does, read off its command line.

use std::time::Duration;

use model::HostWorkload;

/// How a fake task behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Why it cannot be started.
    pub start_error: Option<String>,
    /// Written to standard output at the start.
    pub output: String,
    /// Ends by itself after so long with this code; `None`: runs until it is killed or told to end.
    pub end: Option<(Duration, i32)>,
    /// Writes its input to its output; ends when the input is closed.
    pub echo: bool,
    /// Does not end by signals other than SIGKILL.
    pub stubborn: bool,
}

impl Script {
    const FOREVER: Script = Script {
        start_error: None,
        output: String::new(),
        end: None,
        echo: false,
        stubborn: false,
    };

    /// The script of a command: `true`, `false`, `exit N`, `sleep SECONDS [N]`, `echo WORDS`, `cat`, `stubborn`,
    /// `missing` (is not there), `forbidden` (may not be executed), `sh -c COMMAND`; all else runs until it is killed.
    #[must_use]
    pub fn of(words: &[&str]) -> Self {
        let after = |seconds: f64, code: i32| Script {
            end: Some((Duration::from_secs_f64(seconds.clamp(0.0, 1e6)), code)),
            ..Self::FOREVER
        };
        let number = |text: Option<&&str>| text.and_then(|t| t.parse::<f64>().ok());
        let Some((program, rest)) = words.split_first() else {
            return Self::FOREVER;
        };
        let code = |text: Option<&&str>| text.and_then(|t| t.parse().ok()).unwrap_or(0);
        match program.rsplit('/').next().unwrap_or(program) {
            "true" => after(0.0, 0),
            "false" => after(0.0, 1),
            "exit" => after(0.0, code(rest.first())),
            "sleep" => match number(rest.first()) {
                Some(seconds) => after(seconds, code(rest.get(1))),
                None => Self::FOREVER,
            },
            "echo" => Script {
                output: format!("{}\n", rest.join(" ")),
                ..after(0.0, 0)
            },
            "cat" => Script {
                echo: true,
                ..Self::FOREVER
            },
            "stubborn" => Script {
                stubborn: true,
                ..Self::FOREVER
            },
            "missing" => Script {
                start_error: Some(format!(
                    "exec: {program:?}: executable file not found in $PATH"
                )),
                ..Self::FOREVER
            },
            "forbidden" => Script {
                start_error: Some(format!("exec: {program:?}: permission denied")),
                ..Self::FOREVER
            },
            "sh" | "ash" | "bash" => match rest {
                ["-c", command, ..] => {
                    let words: Vec<&str> = command.split_whitespace().collect();
                    Self::of(&words)
                }
                _ => Self::FOREVER,
            },
            _ => Self::FOREVER,
        }
    }

    /// The script of a workload's command.
    #[must_use]
    pub fn of_workload(workload: &HostWorkload) -> Self {
        let task = &workload.spec.task;
        let words: Vec<&str> = task
            .entrypoint
            .iter()
            .chain(&task.args)
            .map(String::as_str)
            .collect();
        Self::of(&words)
    }
}
