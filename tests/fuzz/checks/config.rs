//! Configuration files: any bytes are a configuration or an error with a line, and no error quotes a key. (fuzz check)

use wg4netns::config::Config;

pub(crate) fn check(data: &[u8]) {
    for parsed in [Config::parse(data, "fuzz"), Config::parse_setconf(data, "fuzz")] {
        match parsed {
            Ok(config) => {
                let _lines = config.warning_lines().count();
                let _update = (config.to_update(), config.network_plan());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
