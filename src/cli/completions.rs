//! `saltpeter completions`: what shells offer on Tab; made from the table of verbs.
//! Must not know: what the verbs do.

use std::process::ExitCode;

use super::{Arguments, VERBS, VerbInfo};

pub const HELP: &str = "\
usage: saltpeter completions bash|zsh|fish

Prints completions for a shell: verbs, options, and the names of jobs as the daemon knows them.

  bash   saltpeter completions bash > /usr/share/bash-completion/completions/saltpeter
  zsh    saltpeter completions zsh > /usr/share/zsh/site-functions/_saltpeter
  fish   saltpeter completions fish > ~/.config/fish/completions/saltpeter.fish
";

/// Prints them.
pub fn run(arguments: &Arguments) -> ExitCode {
    let text = match arguments.words[0].as_str() {
        "bash" => bash(),
        "zsh" => zsh(),
        "fish" => fish(),
        _ => {
            eprintln!("saltpeter: completions are for bash, zsh or fish");
            return ExitCode::from(super::USAGE);
        }
    };
    super::print(&text);
    ExitCode::SUCCESS
}

fn names() -> String {
    VERBS.map(|verb| verb.name).join(" ")
}

fn with_jobs() -> Vec<&'static str> {
    VERBS
        .iter()
        .filter(|verb| verb.takes_job)
        .map(|verb| verb.name)
        .collect()
}

fn options(verb: &VerbInfo) -> Vec<&'static str> {
    let common = ["--help", "--configdir"];
    verb.takes().chain(common).collect()
}

/// `compgen -W` would expand what stands in a job's name, commands too: names are compared and quoted by hand.
fn bash() -> String {
    let cases: String = VERBS
        .iter()
        .map(|verb| format!("    {}) options=\"{}\" ;;\n", verb.name, options(verb).join(" ")))
        .collect();
    format!(
        "_saltpeter() {{\n  local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} options= name quoted\n  \
         COMPREPLY=()\n  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    COMPREPLY=($(compgen -W \"{}\" -- \"$word\"))\n    return\n  fi\n  \
         case \"$verb\" in\n{cases}  esac\n  case \"$word\" in\n    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n    \
         *) case \"$verb\" in\n      {})\n        while IFS= read -r name; do\n          printf -v quoted %q \"$name\"\n          \
         [[ $name == \"$word\"* || $quoted == \"$word\"* ]] && COMPREPLY+=(\"$quoted\")\n        \
         done < <(saltpeter status --names 2>/dev/null) ;;\n      maintenance) COMPREPLY=($(compgen -W \"on off clear\" -- \"$word\")) ;;\n      \
         completions) COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$word\")) ;;\n    esac ;;\n  esac\n}}\n\
         complete -F _saltpeter saltpeter\n",
        names(),
        with_jobs().join("|")
    )
}

fn zsh() -> String {
    let cases: String = VERBS
        .iter()
        .map(|verb| format!("    {}) compadd -- {} ;;\n", verb.name, options(verb).join(" ")))
        .collect();
    format!(
        "#compdef saltpeter\n_saltpeter() {{\n  if (( CURRENT == 2 )); then\n    compadd -- {}\n    return\n  fi\n  \
         if [[ $words[CURRENT] == -* ]]; then\n    case $words[2] in\n{cases}    esac\n    return\n  fi\n  case $words[2] in\n    \
         {}) compadd -- ${{(f)\"$(saltpeter status --names 2>/dev/null)\"}} ;;\n    \
         maintenance) compadd -- on off clear ;;\n    completions) compadd -- bash zsh fish ;;\n  esac\n}}\n\
         _saltpeter \"$@\"\n",
        names(),
        with_jobs().join("|")
    )
}

fn fish() -> String {
    let mut text = "complete -c saltpeter -f\n".to_string();
    for verb in &VERBS {
        let VerbInfo { name, about, .. } = verb;
        text.push_str(&format!(
            "complete -c saltpeter -n __fish_use_subcommand -a {name} -d '{}'\n",
            about.replace('\'', "\\'")
        ));
        for option in options(verb) {
            let long = option.trim_start_matches("--");
            text.push_str(&format!(
                "complete -c saltpeter -n '__fish_seen_subcommand_from {name}' -l {long}\n"
            ));
        }
    }
    text.push_str(&format!(
        "complete -c saltpeter -n '__fish_seen_subcommand_from {}' -a '(saltpeter status --names 2>/dev/null)'\n\
         complete -c saltpeter -n '__fish_seen_subcommand_from maintenance' -a 'on off clear'\n\
         complete -c saltpeter -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish'\n",
        with_jobs().join(" ")
    ));
    text
}
