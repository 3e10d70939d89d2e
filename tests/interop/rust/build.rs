//! Generates the stubs from the .proto files.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../../proto";
    println!("cargo::rerun-if-changed={root}");
    let files = protox::compile(
        [
            "workerqueue/v1/worker_queue.proto",
            "workerqueue/tasks/v1/tasks.proto",
            "workerqueue/conformance/v1/conformance.proto",
        ],
        [root],
    )?;
    let mut messages = prost_build::Config::new();
    // With its name a message can be packed into an Any.
    messages.enable_type_names();
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("stubs.rs")
        .compile_fds_with_config(files, messages)?;
    Ok(())
}
