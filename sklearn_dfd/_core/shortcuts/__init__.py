"""Do the files reveal the labels? Headers, and a rule that learns from them alone."""
