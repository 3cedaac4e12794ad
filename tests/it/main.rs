mod cli;
mod endpoint;
