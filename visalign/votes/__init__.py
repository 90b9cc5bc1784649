"""People's votes: kept so that none is lost, counted, and handed on to training."""

from visalign.votes.arena import export_arena
from visalign.votes.board import Leaderboard, leaderboard
from visalign.votes.book import Ballot, Matchup, MatchupSide, Vote, VoteDatabase
from visalign.votes.export import Exported, export_votes

__all__ = ["Ballot", "Leaderboard", "Matchup", "Exported", "MatchupSide", "Vote", "VoteDatabase", "export_arena",
           "export_votes", "leaderboard"]
