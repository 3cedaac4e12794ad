//! The daemon and its command line.
//! Must not know: any module but `cli`.

fn main() -> std::process::ExitCode {
    saltpeter::cli::main()
}
