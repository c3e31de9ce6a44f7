"""`avhubert-ext serve`: a local web page to try a recognizer on.

page/       HTML, CSS and JavaScript as they are sent
app         the API between page and recognizer
guard       which requests are answered at all, and what every answer carries
desk        one job after another, told line by line
process     a worker process that may crash or hang
jobs        what the workers do: read an upload, recognize a clip
clips       what was uploaded, in memory, for a while
noise       babble for the slider
server      the socket, the workers, the end
"""
