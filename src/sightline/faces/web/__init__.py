"""The web app and the REST API: what `sightline serve` runs. Needs the extra `web`. Import its modules directly."""
