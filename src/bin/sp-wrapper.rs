//! The wrapper of one machine run.

fn main() -> std::process::ExitCode {
    saltpeter::wrapper::main()
}
