"""Do the files give the labels away? Headers, and a rule that learns from them alone."""
