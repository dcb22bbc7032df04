"""The conformance suite and its pytest plugin (extra ``testing``): fixtures, options, and what every board must do."""
