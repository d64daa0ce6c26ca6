"""The command line: one thin file a verb; everything a verb does is one public function call in Python too."""
