"""The four nouns (Video, Observations, Fragment, Scene), a scene on disk, and the journal of a run."""
