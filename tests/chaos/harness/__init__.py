"""An adversary: seeded faults against real processes, a recorded history, and a checker.

supervisor   picks faults by its seed and runs episodes
stage        the processes of one episode: servers, workers, producers, PostgreSQL, proxies
faults       one small class per fault
proxy        a TCP proxy that cuts, delays, truncates and swallows
faulty       a server with fault points at named statements; the product has none
history      what every process saw, as lines of JSON
observer     what the database says, during the episode and at its end
checker      pure: history and database in, violated invariants out
report       what an episode was, for people and for programs
"""
