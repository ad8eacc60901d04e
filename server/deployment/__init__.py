"""The coordinator's end of a deployment: its folder, authority, roster, enrolment, gate and supervisor."""
