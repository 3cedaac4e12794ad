//! The wrapper of one machine run.
//! Must not know: any module but `wrapper`.

fn main() -> std::process::ExitCode {
    saltpeter::wrapper::main()
}
